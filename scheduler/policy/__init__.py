"""Decisions as pure functions of values: no clock, no disk, no Ray."""
