"""A baseline whose later runs are better than its earlier ones: no steady machine is believed in. What follows from
that is test_policy_gates_drift's.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from scheduler.domain.candidate import CandidateStats, Occasion
from scheduler.domain.decision import Noise, Promote
from scheduler.domain.lab import LabSnapshot
from scheduler.policy.decide import decide
from scheduler.policy.drift import STEPPED, later_is_better
from scheduler.policy.stats import lab_noise
from tests.scheduler.policy_kit import SIGMA0, baseline, board, standing

RUN_S = 300.0
NOISE = Noise(SIGMA0, 20)


def runs(*at: float) -> tuple[Occasion, ...]:
    return tuple(Occasion(t * RUN_S, "n/a", seed) for seed, t in enumerate(at, 1))


def measured(*scores: float) -> CandidateStats:
    """One run after the other, in multiples of sigma around 1."""
    return baseline(*(1.0 + score * SIGMA0 for score in scores), occasions=runs(*range(len(scores))))


@pytest.mark.parametrize(
    ("scores", "stepped"),
    [
        ((0, 0, 0, -3), True),
        ((0, 0, 0, 0, 0, -3, -3), True),
        ((0, 1, 0, -1, -2, -2), True),  # it need not be one step
        ((0, 0, 0, 3), False),  # what is newer looks worse: no promotion comes of it
        ((-3, 0, 0, 0), False),
        ((0, 0, 0, -3, 3, 3), False),
        ((0, 0, 0, 0), False),
        ((0,), False),
        ((), False),
    ],
)
def test_later_runs_that_are_better_are_a_step_and_worse_ones_none(scores: tuple[float, ...], stepped: bool) -> None:
    assert later_is_better(measured(*scores), NOISE) == stepped


@pytest.mark.parametrize("n", [2, 3, 9])
def test_a_step_is_so_many_standard_errors_of_the_two_parts_means_with_the_seeds_in_it(n: int) -> None:
    se = math.sqrt(1 / (n - 1) + 1)
    for ratio, stepped in ((1.01, True), (0.99, False)):
        base = measured(*[0.0] * (n - 1), -STEPPED * ratio * se)
        assert later_is_better(base, NOISE) == stepped
        assert not later_is_better(base, replace(NOISE, seed_sd=SIGMA0))


def test_it_goes_by_the_time_of_the_runs_not_by_their_number() -> None:
    base = measured(0, 0, 0, -3)
    assert not later_is_better(replace(base, occasions=runs(4, 5, 6, 3)), NOISE)
    assert later_is_better(replace(measured(-3, 0, 0, 0), occasions=runs(9, 1, 2, 3)), NOISE)
    assert not later_is_better(replace(base, occasions=()), NOISE)


def steady_lab(*of_base: float) -> LabSnapshot:
    """Thirty programs whose repeats over hours agree to the last tenth of sigma, so that the machine is believed in."""
    rng = random.Random(1)
    others = [
        standing(
            2 + k,
            *(1.1 + rng.gauss(0.0, SIGMA0) for _ in range(3)),
            occasions=runs(3.0 * k, 3.0 * k + 30, 3.0 * k + 60),
        )
        for k in range(30)
    ]
    base = measured(*of_base)
    times = (10.0 * k for k in range(base.n))
    return replace(board(replace(base, occasions=runs(*times)), *others), run_s=RUN_S, left_out=9)


def test_a_machine_whose_baseline_has_stepped_is_not_believed_to_be_steady() -> None:
    steady, stepped, worse = (steady_lab(0, 0, 0, 0, 0, 0, last) for last in (0.0, -2.5, 2.5))
    for believed in (steady, worse):
        assert not lab_noise(believed).drift and not lab_noise(believed).offset
    noise = lab_noise(stepped)
    assert noise.drift >= 0.5 * noise.sigma
    assert noise.p_unsteady == pytest.approx(1 - 0.82 * 0.93)  # a new lab's doubt: nothing is bought for it


def test_what_was_measured_after_the_step_is_not_promoted_by_what_was_before() -> None:
    """The winner is no better than the baseline's newest run, next to which it was measured."""
    for last, kind in ((0.0, True), (-2.5, False)):
        there = steady_lab(0, 0, 0, 0, 0, 0, last)
        winner = standing(99, 1.0 - 2.6 * SIGMA0, 1.0 - 2.6 * SIGMA0, occasions=runs(59, 60))
        assert isinstance(decide(replace(there, standings=(*there.standings[:1], winner))), Promote) == kind
