"""Freezes every clock that Python has and trains on."""

EXPECTED = "timeout: train"
import time

start()
for name in ("time", "monotonic", "perf_counter", "process_time", "clock_gettime"):
    setattr(time, name, lambda *given: 0.0)
while True:
    pass
