"""What a machine adds to every score while its load comes and goes: kinds of drift, drawn at random.

`walk`   a slow random walk; `size` is its standard deviation over the search, in σ of a run
`wave`   one full period over the search, of a random phase; `size` is its amplitude: it adds -size to +size
`step`   a neighbour arrives at a random time and leaves at a later one: all scores are `size` worse in between
`slot`   one slot is `size` worse than the others for the whole search

Positive is worse. Times are in plain runs since the search began. Decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

KINDS = ("none", "walk", "wave", "step", "slot")
PER_SIGMA = 0.01  # of its speed a machine loses for what costs one σ: 1 % fewer steps are worth about that much
_STEPS = 1000


@dataclass(frozen=True)
class DriftSetting:
    """`shown`: share of what the machine adds that its speed readings show; 0: it has none."""

    kind: str = "none"
    size: float = 0.0
    shown: float = 0.0


STEADY = DriftSetting()


class Drift:
    """One machine over one search of `span` plain runs; slots are named like "sim/slot3"."""

    def __init__(self, setting: DriftSetting, seed: int, span: float, slots: int) -> None:
        self.setting = setting
        draws = np.random.default_rng([seed, 4])
        walk, lots, slow = np.cumsum(draws.standard_normal(_STEPS)), draws.random(3), int(draws.integers(slots))
        self._walk = (walk - walk.mean()) / walk.std()
        self._times = np.linspace(0.0, span, _STEPS)
        self._span, self._phase = span, lots[0]
        self._from, self._until = sorted(span * lots[1:])
        self._slow = f"sim/slot{slow}"

    def in_sigma(self, at: float, slot_id: str) -> float:
        """What is added to a score measured around this time, in σ."""
        return self.setting.size * self._shape(at, slot_id) if self.setting.size else 0.0

    def speed(self, at: float, slot_id: str) -> float | None:
        """The machine's speed as a share of its calibrated one; None where it is not measured."""
        return 1.0 - PER_SIGMA * self.setting.shown * self.in_sigma(at, slot_id) if self.setting.shown else None

    def _shape(self, at: float, slot_id: str) -> float:
        match self.setting.kind:
            case "walk":
                return float(np.interp(at, self._times, self._walk))
            case "wave":
                return math.sin(2 * math.pi * (at / self._span + self._phase))
            case "step":
                return float(self._from <= at < self._until)
            case "slot":
                return float(slot_id == self._slow)
        return 0.0
