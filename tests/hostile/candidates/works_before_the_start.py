"""Trains on nothing in particular before it takes its first row, while imports are free."""

EXPECTED = "invalid: over-budget"
CONTRACT = {"free_startup_s": 0.3}
import time

while time.process_time() < 1.3:
    pass
scored_honestly()
