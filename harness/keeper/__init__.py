"""Keeps one command and all that it starts; see harness.keeper.__main__."""
