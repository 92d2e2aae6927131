"""The claim: its formula against scipy, its interval on twenty thousand made-up claims, and seeds that win nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.simulation.engine import Simulation
from scheduler.domain.decision import PRESETS, Claim, Noise, Promote
from scheduler.policy.stats import lab_noise, make_claim
from tests.scheduler.policy_kit import SIGMA0, ListedWorld, baseline, simulate, standing

SCORES = st.lists(st.integers(900, 1100).map(lambda n: n / 1000), min_size=2, max_size=6, unique=True)
CLAIMS = 5000  # of each kind of lab


def claimed(first: Sequence[float], final: Sequence[float], noise: Noise, prior_df: float = 4.0) -> Claim:
    """Of scores measured at one time on one machine."""
    return make_claim(baseline(*first), standing(2, *final), noise, prior_df)


@given(SCORES, SCORES)
def test_without_lab_and_prior_it_is_the_textbooks_t_test(first: list[float], final: list[float]) -> None:
    claim = claimed(first, final, Noise(0.0, 0), prior_df=0.0)
    assert claim.df == len(first) + len(final) - 2
    test = stats.ttest_ind(final, first)
    assert claim.diff / claim.se == pytest.approx(test.statistic, rel=1e-6, abs=1e-6)
    low, high = test.confidence_interval()
    assert (claim.low, claim.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


def test_what_the_lab_knows_of_the_noise_is_pooled_in() -> None:
    claim = claimed([1.0, 1.0], [0.99, 0.99], Noise(0.001, 14))
    assert claim.df == 4 + 14 + 2
    assert claim.se == pytest.approx(0.001 * math.sqrt(18 / 20))
    assert claim.excludes_zero and claim.diff == pytest.approx(-0.01)
    assert claim.diff - claim.low == pytest.approx(claim.high - claim.diff) == pytest.approx(2.086 * claim.se, rel=1e-3)


@pytest.mark.parametrize(("first", "final"), [((), ()), ((1.0,), ()), ((), (1.0,))])
def test_without_scores_of_both_nothing_is_claimed(first: tuple[float, ...], final: tuple[float, ...]) -> None:
    claim = claimed(first, final, Noise(SIGMA0, 5))
    assert (claim.diff, claim.se, claim.low, claim.high) == (0.0, 0.0, 0.0, 0.0) and not claim.excludes_zero


def labs(rng: np.random.Generator, kind: str, df: int) -> Iterator[tuple[float, Noise]]:
    """True noise and what the lab made of it. "surprising": the prior is off as its 4 degrees of freedom admit."""
    for _ in range(CLAIMS):
        sigma = SIGMA0 if kind == "known" else SIGMA0 * math.sqrt(4 / rng.chisquare(4))
        squares = 4 * SIGMA0**2 + sigma**2 * (rng.chisquare(df) if df else 0.0)
        yield sigma, Noise(math.sqrt(squares / (4 + df)), df)


@pytest.mark.parametrize(("kind", "df"), [("known", 0), ("known", 30), ("surprising", 0), ("surprising", 12)])
def test_the_interval_holds_the_truth_in_95_of_100_claims(kind: str, df: int) -> None:
    rng, held, gain = np.random.default_rng(11), 0, -0.002
    for sigma, noise in labs(rng, kind, df):
        first, final = rng.normal(1.0, sigma, 4), rng.normal(1.0 + gain, sigma, 4)
        claim = claimed(first, final, noise)
        held += claim.low <= gain <= claim.high
    assert 0.93 < held / CLAIMS < 0.97


def seeds_alone(preset: str, seed: int, edits: int) -> Simulation:
    """Another seed is another program: nothing but luck tells these candidates apart."""
    return simulate(ListedWorld([0.0] * edits, seed, crash_share=0.0), 8, 8, PRESETS[preset])


def promotions(played: Simulation) -> int:
    return sum(isinstance(decision, Promote) for decision in played.decisions)


def test_three_hundred_seeds_win_little_and_greedy_promotes_luck_more_often() -> None:
    default, greedy = (
        [promotions(seeds_alone(preset, seed, 300)) for seed in range(6)] for preset in ("default", "greedy")
    )
    assert sum(default) <= 2.5 * len(default) < sum(greedy)


def test_what_luck_promoted_is_not_claimed() -> None:
    """Fresh runs of baselines that won by luck alone: the interval holds 0, and the baselines' own scores would not."""
    rng, held, flattered, claims = random.Random(3), 0, 0, 0
    for seed in range(40):
        lab = seeds_alone("bold", seed, 60).lab
        noise, last, first = lab_noise(lab), lab.baseline, lab.of("c0001")
        if last is first:
            continue
        flattered += claimed(first.scores, last.scores, noise).high < 0
        for _ in range(40):
            fresh = [[rng.gauss(1.0, SIGMA0) for _ in range(4)] for _ in range(2)]
            claim = claimed(*fresh, noise)
            held, claims = held + (not claim.excludes_zero), claims + 1
    assert claims > 400 and held / claims >= 0.93
    assert flattered > 0.07 * claims / 40
