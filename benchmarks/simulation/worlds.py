"""Worlds of made-up ideas: how good each proposal truly is, what a patch keeps elsewhere, and how long runs take.

`pr44`   fitted to the published search of 126 experiments (karpathy/autoresearch, pull request 44): gains dry up
`brief`  a constant mixture in which 10 % of all ideas are gains: it never dries up, so it favours haste
`null`   no idea is a gain: a quarter change nothing (0 to a few 1e-4), the others harm

Proposal k is the same under every rule (common random numbers). Effects in bpb, negative is better; durations in units
of one plain run. What the machine adds is drift.py's. Knows nothing of rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.simulation.drift import STEADY, Drift, DriftSetting
from benchmarks.simulation.engine import RUN_S, End
from scheduler.domain.candidate import Occasion
from scheduler.domain.run import Run, RunKind

WORLDS = ("pr44", "brief", "null")
_REACH = {"pr44": 0.015, "brief": 0.03, "null": 0.015}  # bpb of progress after which a patch keeps 1/e of its effect


@dataclass(frozen=True)
class Setting:
    """`conflict`: chance that two patches of one file do not merge. `crash`, `slow`: shares of runs.

    `seed_sd`: what a seed adds to the scores of all programs alike, in σ. `jitter`: of how long plain runs take, the
    standard deviation.
    """

    kind: str
    sigma: float
    conflict: float = 0.34
    crash: float = 0.05
    slow: float = 0.10
    kept: float = 0.9
    kept_sd: float = 0.3
    seed_sd: float = 0.0
    jitter: float = 0.0
    drift: DriftSetting = STEADY


class DrawnWorld:
    """A World (engine.py) drawn at random. `seed` names it; every draw comes from a stream of its own purpose.

    The search takes `span` plain runs of time on `slots` slots: over them the machine drifts.
    """

    first_lines = 0
    plain = 1.0

    def __init__(self, setting: Setting, seed: int, proposals: int, span: float = 100.0, slots: int = 8) -> None:
        self.setting, self._seed = setting, seed
        self.drift = Drift(setting.drift, seed, span, slots)
        self._asked = 0
        draws = np.random.default_rng([seed, 2])
        self._lots = draws.random((proposals, 3)).tolist()
        self._normal = draws.standard_normal(proposals).tolist()
        self._exponential = draws.standard_exponential(proposals).tolist()
        self._luck = np.random.default_rng([seed, 1])

    def next_idea(self, gained: float) -> tuple[float, int]:
        k, self._asked = self._asked, self._asked + 1
        lots, normal, exponential = self._lots[k], self._normal[k], self._exponential[k]
        if self.setting.kind == "brief":
            return _brief(lots, normal, exponential), 0
        if self.setting.kind == "null":
            return (abs(1e-4 * normal) if lots[1] < 0.25 else 0.0007 * math.exp(1.3 * normal)), 0
        return published_effect(lots, normal, exponential, gained), 0

    def ported_effect(self, effects: Sequence[float], moved: Sequence[float]) -> float:
        """Not quite the sum, and less of it the further the baseline has moved."""
        total, reach = 0.0, _REACH[self.setting.kind]
        for effect, distance in zip(effects, moved, strict=True):
            fades = max(0.3, math.exp(-max(distance - total, 0.0) / reach)) if effect < 0 else 1.0
            total += self.setting.kept * fades * effect
            total += self.setting.kept_sd * abs(effect) * self._luck.standard_normal()
        return total

    def merges(self, patches_met: int) -> bool:
        return bool(self._luck.random() < (1 - self.setting.conflict) ** patches_met)

    def score(self, value: float, occasion: Occasion) -> float:
        added = self.setting.seed_sd and self.setting.seed_sd * self._seed_effect(occasion.seed)
        added += self.drift.in_sigma(occasion.at / RUN_S, occasion.slot_id)
        return value + self.setting.sigma * (float(self._luck.standard_normal()) + added)

    def speed(self, at: float, slot_id: str) -> float | None:
        return self.drift.speed(at / RUN_S, slot_id)

    def ending(self, run: Run) -> tuple[float, End]:
        if run.kind is RunKind.NEW and self._luck.random() < self.setting.crash:
            return float(self._luck.uniform(0.05, 0.6)), End.CRASHED
        lasts = float(self._luck.uniform(1.3, 2.0)) if self._luck.random() < self.setting.slow else 1.0
        if self.setting.jitter:
            lasts *= math.exp(self.setting.jitter * self._luck.standard_normal())
        return lasts, End.SCORED

    def _seed_effect(self, run_seed: int) -> float:
        return float(np.random.default_rng([self._seed, 3, run_seed]).standard_normal())


def _brief(lots: Sequence[float], normal: float, exponential: float) -> float:
    if lots[0] < 0.70:
        return 0.005 * exponential
    if lots[0] < 0.90:
        return 1e-4 * normal
    return -(0.0005 + 0.0015 * lots[2]) if lots[0] < 0.98 else -(0.003 + 0.007 * lots[2])


def published_effect(lots: Sequence[float], normal: float, exponential: float, gained: float) -> float:
    """One draw of the world fitted to the published search."""
    left = math.exp(-max(gained, 0.0) / 0.009)
    if lots[0] < 0.08 + 0.52 * left:
        large = lots[1] < 0.5 * left
        return -(0.003 + 0.009 * lots[2]) if large else -(0.0003 + 0.0012 * left) * exponential
    return 1e-4 * normal if lots[1] < 0.25 else 0.0007 * math.exp(1.3 * normal)
