"""The budget clock and the phases of a run, as the judge reads them.

Seconds since START on the contract's clock: wall, CPU time of all that the candidate runs, or that times the core's
speed. How CPU time is counted: harness.judge.cpu_time; the speed: harness.core_probe; limits: harness.judge.monitor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from harness.contract import Budget
from harness.core_probe import Reading, speed_of
from harness.judge.cpu_time import CpuClock, OthersShare
from harness.work_page import WorkDone

Phase = Literal["import", "context", "compile", "train", "evaluate", "teardown"]
PHASES: tuple[Phase, ...] = ("import", "context", "compile", "train", "evaluate", "teardown")


SMOOTHED = 5  # readings whose mean is the speed; fewer follow a load faster, and single disturbances with it
_ATTEMPTS = 3  # at a reading in which the candidate does not run
_UNNOTICED_S = 5e-5  # of its running: less than the clock can be trusted with
CPU_S_PER_READING = 0.15  # a reading costs 1.6 to 3 ms: at most 2 % of that


@dataclass(frozen=True, slots=True)
class SpeedRange:
    """Speeds as shares of the calibrated one: mean by CPU time, 5th and 95th percentile of what was followed."""

    mean: float
    low: float
    high: float


class CoreSpeed:
    """The core's speed as a share of the calibrated one: by the mean of the last readings of a probe, and by how much
    of the core `others` have. To be made before the candidate is: what others had until it starts is the first share.
    """

    def __init__(
        self, read_probe: Callable[[], Reading], reference_s: float, others: OthersShare | None = None
    ) -> None:
        self._read_probe, self._reference_s, self._others = read_probe, reference_s, others
        self._share(0.0)
        self._readings: deque[float] = deque(maxlen=SMOOTHED)
        self.speeds: list[float] = []  # after each look

    def look(self, cpu: CpuClock) -> float:
        """Take a reading; returns the speed, and begins with as many readings as it is the mean of.

        `cpu`: the candidate's clock.
        """
        for _ in range(1 if self._readings else SMOOTHED):
            self._readings.append(self._reading_s(cpu))
        reading_s = sum(self._readings) / len(self._readings)
        self.speeds.append(speed_of(reading_s, self._reference_s, self._share(cpu.read_s())))
        return self.speeds[-1]

    def _share(self, candidate_s: float) -> float:
        return 0.0 if self._others is None else self._others.look(candidate_s + time.process_time())

    def _reading_s(self, cpu: CpuClock) -> float:
        """A candidate that cuts in can empty the caches to look slow: it is not believed slower than calibrated."""
        for _ in range(_ATTEMPTS):
            before_s, reading = cpu.read_s(), self._read_probe()
            if not reading.interrupted or cpu.read_s() - before_s < _UNNOTICED_S:
                return reading.seconds
        return min(reading.seconds, self._reference_s)


class BudgetClock:
    """Seconds of the contract's budget used since `begin`; a work clock needs the speed of its core."""

    def __init__(self, budget: Budget, cpu: CpuClock, speed: CoreSpeed | None = None) -> None:
        self._budget, self._cpu = budget, cpu
        self._speed = speed if budget.clock == "work" else None
        self._begun_wall: float | None = None
        self._begun_cpu_s = self._charged_s = 0.0
        # Of a work clock: up to _seen_cpu_s it is _work_s, and from there on a CPU second is _rate.
        self._rate, self._work_s, self._seen_cpu_s, self._look_at_cpu_s = 1.0, 0.0, 0.0, 0.0

    def begin(self, free_startup_s: float | None = None) -> float:
        """Start counting; returns the seconds that are used already: CPU time before now beyond what is free."""
        self._begun_wall = time.monotonic()
        self._cpu.begin()
        self._begun_cpu_s = self._cpu.read_s()
        if self._budget.counts_cpu and free_startup_s is not None:
            self._charged_s = max(0.0, self._begun_cpu_s - free_startup_s)
        if self._speed is not None:
            self._look(self._speed)
        return self._charged_s

    @property
    def in_work(self) -> bool:
        return self._budget.clock == "work"

    @property
    def begun(self) -> bool:
        return self._begun_wall is not None

    def used_s(self) -> float:
        if not self.begun:
            return 0.0
        since_s = {"wall": self.wall_s, "cpu": self._cpu_since_s, "work": self._work_since_s}
        return self._charged_s + since_s[self._budget.clock]()

    def cpu_s(self) -> float:
        """What a cpu clock would say in the place of `used_s`."""
        return self._charged_s + self._cpu_since_s() if self.begun else 0.0

    def wall_s(self) -> float:
        return 0.0 if self._begun_wall is None else time.monotonic() - self._begun_wall

    def look(self) -> WorkDone | None:
        """Read the speed anew, once the candidate has computed for a while since; returns what to report to it.

        A candidate that waits is charged nothing, so nothing is measured for it.
        """
        if self._speed is None or not self.begun:
            return None
        self._work_since_s()
        if self._seen_cpu_s < self._look_at_cpu_s:
            return None
        self._look(self._speed)
        return self.done()

    def done(self) -> WorkDone:
        """Where a work clock stands, and how it goes on."""
        work_s = self._work_since_s()
        return WorkDone(self._charged_s + work_s, self._seen_cpu_s, self._rate)

    def speeds(self) -> SpeedRange | None:
        """How fast the core has been since `begin`; None but for a work clock under which something was computed."""
        if self._speed is None or not (cpu_s := self._cpu_since_s()):
            return None
        followed = sorted(self._speed.speeds)
        low, high = (followed[round(share * (len(followed) - 1))] for share in (0.05, 0.95))
        return SpeedRange(self._work_since_s() / cpu_s, low, high)

    def allows(self, used_s: float) -> bool:
        """Whether a run that has used so much may have a score."""
        return used_s <= self._budget.seconds

    def overrun(self) -> str | None:
        """Why a candidate that has not asked for its evaluation must be stopped, or None while it may go on.

        Until then a candidate is late, which gives no score either: `over-budget`.
        """
        if (used_s := self.used_s()) > self._budget.seconds + self._budget.grace_s:
            return f"used {used_s:.1f} s of a budget of {self._budget.seconds:g} s and did not stop"
        if self._budget.counts_cpu and self.wall_s() > self._budget.wall_limit_s:
            return f"used only {used_s:.1f} s of CPU time in {self._budget.wall_limit_s:g} s of wall time"
        return None

    def _cpu_since_s(self) -> float:
        return self._cpu.read_s() - self._begun_cpu_s

    def _work_since_s(self) -> float:
        cpu_s = self._cpu_since_s()
        self._work_s += self._rate * (cpu_s - self._seen_cpu_s)
        self._seen_cpu_s = cpu_s
        return self._work_s

    def _look(self, speed: CoreSpeed) -> None:
        # What the candidate computes during the reading counts at the speed that it shows.
        self._rate = speed.look(self._cpu)
        self._look_at_cpu_s = self._seen_cpu_s + CPU_S_PER_READING


@dataclass(slots=True)
class PhaseTimeline:
    """Which phase a run is in, since when, and how long earlier ones took (CLOCK_MONOTONIC)."""

    phase: Phase = "import"
    entered_at: float = field(default_factory=time.monotonic)
    spawned_at: float = field(default_factory=time.monotonic)
    spent_s: dict[Phase, float] = field(default_factory=dict)

    def enter(self, phase: Phase) -> None:
        self.close()
        self.phase = phase

    def close(self) -> None:
        """Book the time of the current phase up to now."""
        now = time.monotonic()
        self.spent_s[self.phase] = self.spent_s.get(self.phase, 0.0) + now - self.entered_at
        self.entered_at = now

    def in_phase_s(self) -> float:
        return time.monotonic() - self.entered_at

    def since_spawn_s(self) -> float:
        return time.monotonic() - self.spawned_at
