"""How fast this core is now: the CPU time of a tiny fixed piece of a candidate's kind of work.

Products of small matrices, Python, sums in the inner caches, and a copy in the last one. Nothing in a reading depends
on what the caches held before. What readings are used for: harness.judge.clock; their reference: harness.calibration.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import numpy as np

SLOWEST, FASTEST = 0.2, 1.4  # a speed outside is a fault of the measurement
# What a training step takes more than on a quiet core, as runs under a judge in two slots show it; bare steps in
# benchmarks/bench_core_probe.py go 0.32 to 0.48 with the reading and 0.10 to 0.16 with the share (docs/log.md).
FOLLOWS = 0.40  # of what a reading takes more
SHARING = 0.08  # of its time, times the share of the core that others have: they use the caches meanwhile
_PRODUCTS, _SIDE = 20, 64  # float32; too small for BLAS to wake threads
_SUMS, _SUMMED = 10, 32_768  # float64: 256 KiB
_LOOP = 2000
_COPIED = 1 << 20  # float64: 8 MiB, which with its copy outgrows every core's own caches


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds of the work, and whether another thread had the core in between."""

    seconds: float
    interrupted: bool


class CoreProbe:
    """Takes readings of the core that the calling thread runs on; about 0.7 ms each, 1.3 to 2 with the warm-up."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._left, self._right = random.random((2, _SIDE, _SIDE), dtype=np.float32)
        self._product = np.empty_like(self._left)
        self._terms, self._sum = random.random(_SUMMED), np.zeros(_SUMMED)
        self._source, self._copy = random.random(_COPIED), np.zeros(_COPIED)

    def read(self) -> Reading:
        np.copyto(self._copy, self._source)
        self._compute()
        before, began = _interruptions(), time.thread_time()
        self._compute()
        np.copyto(self._copy, self._source)
        return Reading(time.thread_time() - began, _interruptions() != before)

    def use_caches(self, seconds: float) -> None:
        """Work as a candidate would for so many CPU seconds: what is measured next finds the core warm."""
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            self._compute()
            np.add(self._copy[: _COPIED // 8], 1.0, out=self._copy[: _COPIED // 8])

    def _compute(self) -> None:
        for _ in range(_PRODUCTS):
            np.matmul(self._left, self._right, out=self._product)
        counts: dict[int, int] = {}
        for number in range(_LOOP):
            counts[number & 63] = counts.get(number & 63, 0) + number
        for _ in range(_SUMS):
            np.add(self._sum, self._terms, out=self._sum)


def speed_of(reading_s: float, reference_s: float, others: float = 0.0) -> float:
    """The core's speed as a share of the calibrated one, within SLOWEST and FASTEST.

    FOLLOWS of a training step takes longer as a reading does, the rest as long as ever, and all of it longer by SHARING
    where it is alone for no time. `others`: the share of the core that others have, 0 to 1.
    """
    step = 1 - FOLLOWS + FOLLOWS * reading_s / reference_s + SHARING * others
    return min(max(1 / step, SLOWEST), FASTEST)


def _interruptions() -> int:
    """How often the kernel has given this thread's core to another thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
