"""The budget clock and the phases of a run, as the judge reads them.

Seconds since START on the contract's clock: wall, or CPU time of all that the candidate runs. How CPU time is counted:
harness.judge.cpu_time; what follows from running over: harness.judge.monitor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from harness.contract import Budget
from harness.judge.cpu_time import CpuClock

Phase = Literal["import", "context", "compile", "train", "evaluate", "teardown"]
PHASES: tuple[Phase, ...] = ("import", "context", "compile", "train", "evaluate", "teardown")


class BudgetClock:
    """Seconds of the contract's budget used since `begin`."""

    def __init__(self, budget: Budget, cpu: CpuClock) -> None:
        self._budget, self._cpu = budget, cpu
        self._begun_at: float | None = None
        self._begun_wall: float | None = None

    def begin(self, free_startup_s: float | None = None) -> float:
        """Start counting; returns the seconds that are used already: CPU time before now beyond what is free."""
        self._begun_wall = time.monotonic()
        self._cpu.begin()
        self._begun_at = reading_s = self._reading_s()
        if self._budget.clock == "cpu" and free_startup_s is not None:
            self._begun_at = min(reading_s, free_startup_s)
        return reading_s - self._begun_at

    @property
    def begun(self) -> bool:
        return self._begun_at is not None

    def used_s(self) -> float:
        return 0.0 if self._begun_at is None else self._reading_s() - self._begun_at

    def wall_s(self) -> float:
        return 0.0 if self._begun_wall is None else time.monotonic() - self._begun_wall

    def allows(self, used_s: float) -> bool:
        """Whether a run that has used so much may have a score."""
        return used_s <= self._budget.seconds

    def overrun(self) -> str | None:
        """Why a candidate that has not asked for its evaluation must be stopped, or None while it may go on.

        Until then a candidate is late, which gives no score either: `over-budget`.
        """
        if (used_s := self.used_s()) > self._budget.seconds + self._budget.grace_s:
            return f"used {used_s:.1f} s of a budget of {self._budget.seconds:g} s and did not stop"
        if self._budget.clock == "cpu" and self.wall_s() > self._budget.wall_limit_s:
            return f"used only {used_s:.1f} s of CPU time in {self._budget.wall_limit_s:g} s of wall time"
        return None

    def _reading_s(self) -> float:
        return time.monotonic() if self._budget.clock == "wall" else self._cpu.read_s()


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
