"""Searches of the shipped promotion rule on made-up effects: worlds, an engine on a virtual clock, and their tables."""
