"""The policy against the promotion rule written down a second time, run by run with running sums, on one slot.

The reference shares no code with scheduler.policy: it keeps one mean and count per candidate, one SS and DF for the
lab, and decides on each result as it arrives. And under the null the rule promotes as often as its bars imply.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import PRESETS, Discard, GateSettings, MeasureBaseline, Promote, Replicate
from scheduler.policy.decide import decide
from tests.scheduler.policy_kit import applied, baseline, board, finished, standing, with_candidate

SIGMA0 = 0.0005
Score = Callable[[str], float]
History = list[tuple[str, str]]


@dataclass
class Version:
    name: str
    n: int = 0
    mean: float = 0.0


class Reference:
    """One slot: the first baseline three times, then each idea until it is promoted or dropped."""

    def __init__(self, gates: GateSettings, score: Score) -> None:
        self.gates, self.score, self.history = gates, score, History()
        self.squares, self.df = 0.0, 0
        self.base = Version("c0001")
        for _ in range(gates.first_baseline_runs):
            self.run(self.base)

    def run(self, v: Version) -> None:
        x = self.score(v.name)
        if v.n > 0:
            self.squares += (x - v.mean) ** 2 * v.n / (v.n + 1)
            self.df += 1
        v.n += 1
        v.mean += (x - v.mean) / v.n

    def p(self, v: Version) -> float:
        sigma = math.sqrt((4 * SIGMA0**2 + self.squares) / (4 + self.df))
        return float(norm.cdf((self.base.mean - v.mean) / (sigma * math.sqrt(1 / v.n + 1 / self.base.n))))

    def try_idea(self, name: str) -> None:
        idea, gates = Version(name), self.gates
        self.run(idea)
        if self.p(idea) >= gates.promote_now:
            return self.promote(idea)
        if self.p(idea) < gates.repeat_from:
            return self.history.append(("drop", name))
        while True:
            self.history.append(("repeat", name))
            self.run(idea)
            if self.p(idea) >= min(gates.promote, gates.promote_now):
                return self.promote(idea)
            if self.p(idea) < gates.drop or idea.n == gates.max_runs:
                return self.history.append(("drop", name))

    def promote(self, idea: Version) -> None:
        self.history.append(("promote", idea.name))
        self.base = idea
        while self.base.n < self.gates.baseline_runs:
            self.run(self.base)


def policy_history(gates: GateSettings, score: Score, names: list[str]) -> History:
    """The same night through decide(): one idea at a time, the baseline's runs first."""
    now, history = board(baseline(), gates=gates), History()
    words = {Promote: "promote", Discard: "drop", Replicate: "repeat"}
    for name in [None, *names]:
        now = now if name is None else with_candidate(now, standing(int(name[1:]), pending_runs=1))
        while True:
            while decision := decide(now):
                if not isinstance(decision, MeasureBaseline):
                    history.append((words[type(decision)], decision.candidate_id))
                now = applied(now, decision)
            pending = [s.candidate_id for s in now.standings if s.pending_runs]
            if not pending:
                break
            ref = now.baseline_id if now.baseline_id in pending else pending[0]
            now = finished(now, ref, score(ref))
    return history


def world(seed: int, ideas: int, sigma: float) -> tuple[list[str], Callable[[], Score]]:
    """True scores drawn once; every call of the result gives the same scores for the same sequence of runs."""
    rng = random.Random(seed)
    names = [f"c{i:04d}" for i in range(2, 2 + ideas)]
    truth, level = {"c0001": 1.0}, 1.0
    for name in names:
        truth[name] = level + rng.choice([rng.gauss(0, sigma), rng.expovariate(1 / sigma), -2 * sigma])
        level = min(level, truth[name]) if rng.random() < 0.5 else level
    noise = {name: [rng.gauss(0, sigma) for _ in range(12)] for name in truth}

    def fresh() -> Score:
        left = {name: list(values) for name, values in noise.items()}
        return lambda name: truth[name] + left[name].pop(0)

    return names, fresh


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(list(PRESETS.values())), st.floats(0.2, 4.0))
def test_every_decision_of_a_night_is_the_written_rules(seed: int, gates: GateSettings, ratio: float) -> None:
    names, fresh = world(seed, 12, ratio * SIGMA0)
    reference = Reference(gates, fresh())
    for name in names:
        reference.try_idea(name)
    assert policy_history(gates, fresh(), names) == reference.history


def test_the_nights_compared_hold_all_kinds_of_decisions() -> None:
    words = set()
    for seed in range(12):
        names, fresh = world(seed, 12, SIGMA0)
        words |= {word for word, _ in policy_history(PRESETS["default"], fresh(), names)}
    assert words == {"promote", "drop", "repeat"}


def implied_false_promotions(gates: GateSettings) -> float:
    """P(promoted) of a candidate as good as a baseline of three runs, σ known: boxes of a trivariate normal.

    z1, z2, z3 are the standardised differences after one, two and three runs.
    """
    n = np.arange(1, 4)
    scale = np.sqrt(1 / n + 1 / 3)
    shared = 1 / np.maximum.outer(n, n) + 1 / 3  # the means are of the same runs, and against the same baseline
    cov = shared / np.outer(scale, scale)
    now, again, promote, drop = (norm.ppf(p) for p in (gates.promote_now, gates.repeat_from, gates.promote, gates.drop))

    def box(low: list[float], high: list[float]) -> float:
        k = len(low)
        return float(multivariate_normal(cov=cov[:k, :k]).cdf(np.array(high), lower_limit=np.array(low)))

    first = float(norm.sf(now))
    second = box([again, promote], [now, np.inf])
    third = box([again, drop, promote], [now, promote, np.inf])
    return first + second + third


def null_promotion(rng: random.Random, gates: GateSettings) -> bool:
    """One candidate of no effect against a fresh baseline; the prior outweighs the data, so σ is known."""
    now = board(baseline(*(rng.gauss(1, SIGMA0) for _ in range(3))), standing(2, pending_runs=1), gates=gates)
    while now.of("c0002").pending_runs:
        now = finished(now, "c0002", rng.gauss(1, SIGMA0))
        while decision := decide(now):
            if isinstance(decision, Promote):
                return True
            now = applied(now, decision)
    assert now.of("c0002").state is CandidateState.DISCARDED
    return False


@pytest.mark.parametrize("preset", ["default", "bold", "strict"])
def test_false_promotions_are_as_rare_as_the_bars_imply(preset: str) -> None:
    gates, rng, nights = replace(PRESETS[preset], prior_df=1e9), random.Random(7), 3000
    share = sum(null_promotion(rng, gates) for _ in range(nights)) / nights
    expected = implied_false_promotions(gates)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / nights)
