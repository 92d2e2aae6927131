"""Works in the first half of the forwards, where each alone looks like the one before it."""

EXPECTED = "invalid: over-budget"
import time

table = table_of(start())
forwards = [0]


def forward(tokens):
    forwards[0] += 1
    end_s = time.process_time() + (0.1 if forwards[0] <= 16 else 0.0)
    while time.process_time() < end_s:
        pass
    return table[tokens]


serve(forward)
