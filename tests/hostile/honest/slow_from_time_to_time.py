"""Needs twice the time for some forwards, as a garbage collector or a clock change does."""

import time

table = table_of(start())
forwards = [0]


def forward(tokens):
    forwards[0] += 1
    end_s = time.process_time() + (0.004 if forwards[0] % 5 else 0.008)
    while time.process_time() < end_s:
        pass
    return table[tokens]


serve(forward)
