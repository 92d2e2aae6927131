"""An effect while the machine is in doubt: a mixture of what a steady machine and a drifting one say of it."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from scheduler.domain.candidate import CandidateStats, Occasion
from scheduler.domain.decision import Noise, SlotOffset
from scheduler.policy.drift import contrast, hypotheses, mean_error
from scheduler.policy.stats import effect_of, p_not_worse
from tests.scheduler.policy_kit import standing

SLOTS = (SlotOffset("n/0", 0.001, 0.0002),)
MAY_DRIFT = Noise(0.001, 9, drift=0.002, offset=0.001, scale_s=7200.0, seed_sd=0.0005, slots=SLOTS, p_unsteady=0.2)
STEADY = Noise(0.001, 9, scale_s=7200.0, seed_sd=0.0005)
SEEDS = range(8)


def some(rng: random.Random, number: int) -> CandidateStats:
    n = rng.randint(1, 4)
    runs = tuple(Occasion(rng.uniform(0, 20000), f"n/{rng.randrange(3)}", k + 1) for k in range(n))
    return standing(number, *(rng.gauss(1.0, 0.002) for _ in runs), occasions=runs)


def pair(seed: int) -> tuple[CandidateStats, CandidateStats]:
    rng = random.Random(seed)
    return some(rng, 2), some(rng, 1)


@pytest.mark.parametrize("p_unsteady", [0.08, 0.2, 0.49, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_effect_is_what_draws_of_both_machines_say(seed: int, p_unsteady: float) -> None:
    ours, theirs = pair(seed)
    rng, n = np.random.default_rng(seed), 200_000
    drifts = rng.random(n) < p_unsteady
    (moved, moved_se), (kept, kept_se) = (contrast(ours, theirs, noise) for noise in (MAY_DRIFT, STEADY))
    drawn = np.where(drifts, rng.normal(moved, moved_se, n), rng.normal(kept, kept_se, n))
    effect = effect_of(ours, theirs, replace(MAY_DRIFT, p_unsteady=p_unsteady))
    assert effect.diff == pytest.approx(drawn.mean(), abs=5 * drawn.std() / math.sqrt(n))
    assert effect.se == pytest.approx(drawn.std(), rel=0.02)
    assert effect.p_better == pytest.approx((drawn < 0).mean(), abs=5 * 0.5 / math.sqrt(n))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_more_likely_a_drift_the_nearer_to_what_it_would_say(seed: int) -> None:
    ours, theirs = pair(seed)
    drifts, steady = (effect_of(ours, theirs, noise) for noise in (replace(MAY_DRIFT, p_unsteady=1.0), STEADY))
    chances = (0.0, 0.1, 0.3, 0.6, 0.999, 1.0)
    between = [effect_of(ours, theirs, replace(MAY_DRIFT, p_unsteady=chance)).p_better for chance in chances]
    assert between == sorted(between, reverse=drifts.p_better < steady.p_better)
    assert between[0] == pytest.approx(steady.p_better) and between[-1] == pytest.approx(drifts.p_better)
    assert (drifts.diff, drifts.se) == contrast(ours, theirs, MAY_DRIFT)
    assert hypotheses(STEADY) == ((1.0, STEADY),)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_errors_of_means_lie_between_those_of_both_machines(seed: int) -> None:
    ours, _ = pair(seed)
    steady, doubt, drifts = (mean_error(ours, noise) for noise in (STEADY, MAY_DRIFT, replace(MAY_DRIFT, p_unsteady=1)))
    assert doubt**2 == pytest.approx(0.2 * drifts**2 + 0.8 * steady**2)


def test_a_drift_that_may_have_made_the_difference_keeps_p_below_certainty() -> None:
    """However clear it would be on a steady machine: what is left is the chance of the drift times its P(worse)."""
    base = standing(1, 1.0, 1.0, 1.0, occasions=tuple(Occasion(0.0, "n/1", k) for k in (1, 2, 3)))
    lucky = standing(2, 1.0 - 0.004, occasions=(Occasion(100_000.0, "n/1", 1),))
    steady, doubt = (effect_of(lucky, base, noise) for noise in (STEADY, MAY_DRIFT))
    moved = effect_of(lucky, base, replace(MAY_DRIFT, p_unsteady=1.0))
    assert steady.p_better > 0.999 and moved.p_better < 0.95
    assert 1 - doubt.p_better == pytest.approx(0.2 * (1 - moved.p_better), rel=0.05)
    assert p_not_worse(doubt, 0.0) < p_not_worse(steady, 0.0)
