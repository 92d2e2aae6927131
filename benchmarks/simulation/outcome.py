"""What came of one simulated search, held against the truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from scheduler.domain.decision import Claim, Effect
from scheduler.domain.run import RunKind


class Judged(NamedTuple):
    """An effect as a decision states it, with its true size; bpb."""

    effect: Effect
    true: float

    @property
    def covered(self) -> bool:
        """Whether effect ± 2 errors holds the truth."""
        return abs(self.effect.diff - self.true) <= 2 * self.effect.se


@dataclass(frozen=True)
class Outcome:
    """Gains are positive bpb; `claimed` is the running total of the baselines' own runs.

    `runs` counts those begun; `false` the promotions of what was not truly better; `displaced` the baselines that one
    not made from them took the place of; `idle` is the share of the slots' time in which they ran nothing. `judged` are
    the first effects that ideas and merges were judged by, `won` those of the promotions.
    """

    gain: float
    claimed: float
    claim: Claim
    runs: Counter[RunKind]
    promotions: int
    false: int
    unions_promoted: int
    displaced: int
    ports: int
    idle: float
    judged: tuple[Judged, ...]
    won: tuple[Judged, ...]
