"""Keeps its training for the first forward, when the clock has stopped; frozen from the first answer on."""

EXPECTED = "invalid: over-budget"
import time

rows = start()
state = {}


def forward(tokens):
    if not state:
        end_s = time.process_time() + 1.0
        while time.process_time() < end_s:
            state["table"] = table_of(rows)
    return state["table"][tokens]


serve(forward)
