"""The pooled noise against a running Welford, and against candidates that would spoil it for everybody."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.decision import Noise, Promote
from scheduler.policy import stats
from scheduler.policy.decide import decide
from scheduler.policy.stats import WILD, lab_noise
from tests.scheduler.policy_kit import SIGMA0, baseline, board, standing

SCORE = st.floats(0.5, 3.0)
GROUPS = st.lists(st.lists(SCORE, max_size=6), max_size=8)


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


def pooled_noise(groups: list[list[float]], sigma0: float, prior_df: float) -> Noise:
    """Of a lab in which no candidate counts as wildly unsteady."""
    lab = board(baseline(), *(standing(2 + i, *group) for i, group in enumerate(groups)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "WILD", 1e100)
        return lab_noise(replace(lab, noise_prior_bpb=sigma0, gates=replace(lab.gates, prior_df=prior_df)))


@given(GROUPS, st.floats(1e-5, 0.1))
def test_pooled_noise_is_the_running_one(groups: list[list[float]], sigma0: float) -> None:
    sigma, df = welford(groups, sigma0)
    noise = pooled_noise(groups, sigma0, 4.0)
    assert noise.df == df
    assert noise.sigma == pytest.approx(sigma, rel=1e-9)


def test_equal_scores_do_not_make_honest_scatter_wild() -> None:
    steady = [standing(number, *[1.0] * 6) for number in range(2, 5)]
    honest = standing(5, 1.0, 1.0 + SIGMA0)
    assert lab_noise(board(baseline(), *steady, honest)).df == 3 * 5 + 1


@given(GROUPS, st.randoms())
def test_noise_does_not_depend_on_the_order_of_candidates(groups: list[list[float]], rng: random.Random) -> None:
    assert pooled_noise(rng.sample(groups, len(groups)), SIGMA0, 4.0) == pooled_noise(groups, SIGMA0, 4.0)


@given(GROUPS, st.randoms())
def test_noise_does_not_depend_on_the_order_of_runs(groups: list[list[float]], rng: random.Random) -> None:
    shuffled = [rng.sample(group, len(group)) for group in groups]
    assert pooled_noise(shuffled, SIGMA0, 4.0).sigma == pytest.approx(pooled_noise(groups, SIGMA0, 4.0).sigma, rel=1e-9)


def test_without_repeats_the_noise_is_the_prior() -> None:
    assert pooled_noise([[1.0], [], [2.0]], SIGMA0, 4.0) == Noise(SIGMA0, 0)


@given(SCORE, st.floats(-0.4, 0.4), st.integers(2, 6))
def test_a_common_shift_of_all_scores_is_no_noise(score: float, shift: float, n: int) -> None:
    group = [score + i * 1e-3 for i in range(n)]
    moved = [x + shift for x in group]
    assert pooled_noise([group], SIGMA0, 4.0).sigma == pytest.approx(pooled_noise([moved], SIGMA0, 4.0).sigma, rel=1e-6)


def gaussian_board(rng: random.Random, sigma: float, repeats: int = 12):
    scores = [[rng.gauss(1.0 + rng.uniform(-0.02, 0.02), sigma)] for _ in range(repeats)]
    pairs = [standing(2 + i, x, rng.gauss(x, sigma * math.sqrt(2))) for i, (x,) in enumerate(scores)]
    return board(baseline(*(rng.gauss(1.0, sigma) for _ in range(3))), *pairs)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1, 2, 5, 10])
@pytest.mark.parametrize("seed", range(10))
def test_on_an_ordinary_board_every_repeat_counts(ratio: float, seed: int) -> None:
    """The prior may be off tenfold either way; nothing is set aside and the rule is the written one."""
    now = gaussian_board(random.Random(seed), ratio * SIGMA0)
    assert lab_noise(now) == pooled_noise([s.scores for s in now.standings], SIGMA0, 4.0)


@pytest.mark.parametrize("wild", [1, 2, 3])
def test_candidates_that_diverge_now_and_then_do_not_drown_the_others(wild: int) -> None:
    rng = random.Random(wild)
    calm = gaussian_board(rng, SIGMA0)
    unsteady = [standing(50 + i, 0.999, rng.uniform(1.5, 9.0)) for i in range(wild)]
    noisy = board(calm.baseline, *calm.standings[1:], *unsteady)
    assert lab_noise(noisy) == lab_noise(calm)
    assert pooled_noise([s.scores for s in noisy.standings], SIGMA0, 4.0).sigma > 50 * SIGMA0
    assert isinstance(decide(board(baseline(1.0, 1.0, 1.0), standing(40, 0.99), *unsteady)), Promote)


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize(("times", "counted"), [(0.99, True), (1.01, False)])
def test_the_bar_of_wildness_is_the_same_for_few_runs_and_for_many(n: int, times: float, counted: bool) -> None:
    """Against a lab that knows its noise: the others' repeats lie exactly one prior apart."""
    calm = [standing(10 + i, 1.0, 1.0 + math.sqrt(2) * SIGMA0) for i in range(9)]
    scores = [1.0 + (-1) ** i * i * SIGMA0 for i in range(n)]
    stretch = times * WILD * SIGMA0 / statistics.stdev(scores)
    unsteady = standing(2, *(1.0 + stretch * (score - 1.0) for score in scores))
    assert lab_noise(board(baseline(1.0), unsteady, *calm)).df == len(calm) + (n - 1 if counted else 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_prior_far_too_small_is_outvoted_by_the_repeats(seed: int) -> None:
    sigma = 3 * WILD * SIGMA0
    assert lab_noise(gaussian_board(random.Random(seed), sigma)).sigma > sigma / 2
