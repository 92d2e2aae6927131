"""The two gates against independent references: running Welford, scipy's normal, and the rule's words."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from scheduler.domain.decision import PRESETS, Discard, Noise, Promote, Replicate
from scheduler.policy.gates import effect_of, judge_candidate
from scheduler.policy.noise import pooled_noise
from tests.scheduler.policy_kit import SIGMA0, baseline, standing

GATES = PRESETS["default"]
SCORE = st.floats(0.5, 3.0)
GROUPS = st.lists(st.lists(SCORE, max_size=6), max_size=8)
NOISE = Noise(0.001, 6)


def welford(groups: list[list[float]], sigma0: float) -> tuple[float, int]:
    """The noise as it would be kept run by run: each score updates its candidate's mean and the common SS and DF."""
    squares, df = 0.0, 0
    for group in groups:
        mean = 0.0
        for n, x in enumerate(group):
            if n:
                squares += (x - mean) ** 2 * n / (n + 1)
                df += 1
            mean += (x - mean) / (n + 1)
    return math.sqrt((4 * sigma0**2 + squares) / (4 + df)), df


@given(GROUPS, st.floats(1e-5, 0.1))
def test_pooled_noise_is_the_running_one(groups: list[list[float]], sigma0: float) -> None:
    sigma, df = welford(groups, sigma0)
    noise = pooled_noise(groups, sigma0, 4.0)
    assert noise.df == df
    assert noise.sigma == pytest.approx(sigma, rel=1e-9)


@given(GROUPS, st.randoms())
def test_noise_does_not_depend_on_the_order_of_runs(groups: list[list[float]], rng: random.Random) -> None:
    shuffled = [rng.sample(group, len(group)) for group in rng.sample(groups, len(groups))]
    assert pooled_noise(shuffled, SIGMA0, 4.0).sigma == pytest.approx(pooled_noise(groups, SIGMA0, 4.0).sigma, rel=1e-9)


def test_without_repeats_the_noise_is_the_prior() -> None:
    assert pooled_noise([[1.0], [], [2.0]], SIGMA0, 4.0) == Noise(SIGMA0, 0)


@given(st.lists(SCORE, min_size=1, max_size=4), st.lists(SCORE, min_size=1, max_size=4), st.floats(1e-4, 0.1))
def test_the_effect_is_what_the_formula_says(ours: list[float], theirs: list[float], sigma: float) -> None:
    effect = effect_of(standing(2, *ours), baseline(*theirs), Noise(sigma, 3))
    diff = sum(ours) / len(ours) - sum(theirs) / len(theirs)
    se = sigma * math.sqrt(1 / len(ours) + 1 / len(theirs))
    assert effect.diff == pytest.approx(diff)
    assert effect.p_better == pytest.approx(norm.cdf(-diff / se), abs=1e-9)
    assert abs(effect.shrunken) <= abs(effect.diff)
    assert effect.shrunken * effect.diff >= 0


@given(SCORE, st.floats(0, 1), st.integers(1, 3))
def test_a_better_score_is_never_less_probable(score: float, worse_by: float, n: int) -> None:
    base = baseline(1.5, 1.5, 1.5)
    better, worse = standing(2, *[score] * n), standing(3, *[score + worse_by] * n)
    assert effect_of(better, base, NOISE).p_better >= effect_of(worse, base, NOISE).p_better


def candidate_at(p: float, n: int = 1, **more: object):
    """A candidate with n equal scores whose P(better) against three runs of 1.0 is p."""
    se = NOISE.sigma * math.sqrt(1 / n + 1 / 3)
    return standing(2, *[1.0 - norm.ppf(p) * se] * n, **more)


@pytest.mark.parametrize(
    ("p", "n", "verdict"),
    [
        (0.981, 1, Promote),
        (0.979, 1, Replicate),
        (0.801, 1, Replicate),
        (0.799, 1, Discard),
        (0.10, 1, Discard),
        (0.801, 2, Promote),
        (0.799, 2, Replicate),
        (0.301, 2, Replicate),
        (0.299, 2, Discard),
        (0.801, 3, Promote),
        (0.799, 3, Discard),
    ],
)
def test_each_gate_stands_where_the_rule_puts_it(p: float, n: int, verdict: type) -> None:
    assert type(judge_candidate(candidate_at(p, n), baseline(1.0, 1.0, 1.0), NOISE, GATES)) is verdict


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_suspect_score_never_promotes_by_itself(preset) -> None:
    doubtful = candidate_at(0.99999, 1, suspect_scores=1)
    assert isinstance(judge_candidate(doubtful, baseline(1.0, 1.0, 1.0), NOISE, preset), Replicate)
    confirmed = candidate_at(0.99999, 2, suspect_scores=1)
    assert isinstance(judge_candidate(confirmed, baseline(1.0, 1.0, 1.0), NOISE, preset), Promote)


def test_a_candidate_that_stays_suspect_is_dropped_in_the_end() -> None:
    assert isinstance(
        judge_candidate(candidate_at(0.99999, 3, suspect_scores=3), baseline(1.0, 1.0, 1.0), NOISE, GATES), Discard
    )


def test_failed_repeats_use_up_the_runs() -> None:
    tired = candidate_at(0.9, 1, failed_runs=2)
    assert isinstance(judge_candidate(tired, baseline(1.0, 1.0, 1.0), NOISE, GATES), Discard)


def test_bold_and_strict_move_the_bars_their_way() -> None:
    base = baseline(1.0, 1.0, 1.0)
    assert isinstance(judge_candidate(candidate_at(0.92), base, NOISE, PRESETS["bold"]), Promote)
    assert isinstance(judge_candidate(candidate_at(0.92, 2), base, NOISE, PRESETS["default"]), Promote)
    assert isinstance(judge_candidate(candidate_at(0.92, 2), base, NOISE, PRESETS["strict"]), Replicate)
