"""What a busy core leaves in scores: learnt from first scores of ideas, taken out of comparisons. On made-up runs."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from scheduler.domain.candidate import CandidateState, FirstScore, Occasion
from scheduler.domain.decision import BusyCore, Noise
from scheduler.domain.lab import LabSnapshot
from scheduler.policy.drift import contrast
from scheduler.policy.occasions import busyness
from scheduler.policy.population import LEAST_FIRSTS, busy_core
from scheduler.policy.stats import effect_of, lab_noise
from tests.scheduler.policy_kit import SIGMA0, baseline, board, standing

RUN_S = 30.0
ALONE_S = 20.0
NOISE = Noise(SIGMA0, 20, scale_s=24 * RUN_S)


def occasion(at: float, times: float = 1.0, *, speed: float | None = 1.0, train_s: float | None = ALONE_S) -> Occasion:
    return Occasion(at * RUN_S, "n/cpu0", 1, speed, train_s and train_s * times)


def firsts(seed: int, n: int, added: float, share: float = 0.4) -> tuple[FirstScore, ...]:
    """`added` bpb for a run that takes e times as long; a `share` of them take 2 to 8 times as long."""
    rng, found = random.Random(seed), []
    for k in range(n):
        times = rng.uniform(2, 8) if rng.random() < share else rng.uniform(1, 1.05)
        speed = rng.uniform(0.9, 1.0)
        score = 1.0 + added * math.log(times) + SIGMA0 * (rng.expovariate(0.1) if rng.random() < 1 / 6 else 0)
        at = occasion(k, times, speed=speed, train_s=ALONE_S / speed)
        found.append(FirstScore(score + rng.gauss(0, SIGMA0), "c0001", at))
    return tuple(found)


CONTROLS = (occasion(0), occasion(1), occasion(2))


@pytest.mark.parametrize("added", [-1.0, 0.0, 1.0])
def test_what_a_busy_core_adds_is_found_and_never_exaggerated(added: float) -> None:
    """In sigma. Some of it is cut off with the tails of ideas, and some shrunken."""
    found = [busy_core(firsts(seed, 60, added * SIGMA0), CONTROLS, NOISE, SIGMA0) for seed in range(60)]
    assert all(
        one and one.error_bpb < 0.6 * SIGMA0 and one.alone_s == pytest.approx(ALONE_S, rel=0.05) for one in found
    )
    values = np.array([one.added_bpb for one in found if one]) / SIGMA0
    errors = (values - added) / np.array([one.error_bpb for one in found if one]) * SIGMA0
    assert errors.std() < 1.3 and np.mean(np.abs(errors) < 2) >= 0.85
    assert 0.5 * abs(added) - 0.2 < values.mean() * (added or 1.0) < abs(added) + 0.2


def test_before_ideas_tell_it_is_only_known_to_be_uncertain() -> None:
    few = firsts(1, LEAST_FIRSTS - 1, -SIGMA0)
    known = busy_core(few, CONTROLS, NOISE, SIGMA0)
    assert known is not None and (known.added_bpb, known.error_bpb) == (0.0, SIGMA0)


def test_where_every_run_had_its_core_alone_nothing_is_taken_out() -> None:
    assert busy_core(firsts(1, 60, -SIGMA0, share=0.0), CONTROLS, NOISE, SIGMA0) is None
    assert busy_core((), (), NOISE, SIGMA0) is None


@pytest.mark.parametrize("unknown", [{"speed": None}, {"train_s": None}])
def test_without_a_clock_in_work_nothing_is_known_of_it(unknown: dict[str, None]) -> None:
    """A candidate under another clock takes as long as it likes."""
    wall = [occasion(k, times, **unknown) for k, times in enumerate((1.0, 1.0, 5.0))]
    assert busy_core((), tuple(wall), NOISE, SIGMA0) is None
    assert busyness(wall, ALONE_S).tolist() == [0.0, 0.0, 0.0]


def test_a_run_that_ends_early_counts_as_alone() -> None:
    assert busyness([occasion(0, 0.2), occasion(0, 1.0), occasion(0, math.e)], ALONE_S) == pytest.approx([0, 0, 1])


def test_a_comparison_takes_out_what_the_busier_side_gained_and_is_less_sure_of_it() -> None:
    base = baseline(1.0, 1.0, 1.0, occasions=CONTROLS)
    busy = replace(NOISE, busy=BusyCore(-SIGMA0, 0.2 * SIGMA0, ALONE_S))
    for times in (1.0, 2.0, 6.0):
        idea = standing(2, 0.99, occasions=(occasion(3, times),))
        diff, se = contrast(idea, base, busy)
        assert diff == pytest.approx(-0.01 + SIGMA0 * math.log(times))
        plain = SIGMA0 * math.sqrt(4 / 3)
        assert se == pytest.approx(math.hypot(plain, 0.2 * SIGMA0 * math.log(times)))
    both = baseline(1.0, 1.0, 1.0, occasions=tuple(occasion(k, 6.0) for k in range(3)))
    assert contrast(standing(2, 0.99, occasions=(occasion(3, 6.0),)), both, busy)[0] == pytest.approx(-0.01)


@pytest.mark.parametrize("added", [-3.0, -1.0, 1.0, 3.0])
@pytest.mark.parametrize("controls", [(1.0, 1.0, 1.0), (1.0, 3.0, 6.0), (6.0, 6.0, 6.0)])
def test_no_candidate_looks_better_for_having_idled_or_ended_early(added: float, controls: tuple[float, ...]) -> None:
    """Both can be had for nothing: it sleeps while it trains, or does not use its budget up."""
    base = baseline(1.0, 1.0, 1.0, occasions=tuple(occasion(k, times) for k, times in enumerate(controls)))
    busy = replace(NOISE, busy=BusyCore(added * SIGMA0, 0.3 * SIGMA0, ALONE_S))
    for score in (0.98, 0.9995, 1.01):
        for times in (0.1, 0.9, 1.0, 2.0, 8.0):
            idea = standing(2, score, occasions=(occasion(3, times),))
            plain, held = effect_of(idea, base, NOISE), effect_of(idea, base, busy)
            assert held.diff >= plain.diff - 0.3 * SIGMA0  # what is left is the weights of busy controls
            assert held.p_better <= max(0.5, plain.p_better) + 0.01


def lab_of(found: tuple[FirstScore, ...]) -> LabSnapshot:
    base = replace(baseline(1.0, 1.0 + SIGMA0, 1.0 - SIGMA0, occasions=CONTROLS), base_id=None)
    ideas = [
        standing(k, one.score, state=CandidateState.DISCARDED, occasions=(one.occasion,))
        for k, one in enumerate(found, 2)
    ]
    return replace(board(base, *ideas), run_s=RUN_S)


def test_ideas_that_change_nothing_are_no_better_next_to_a_load_that_the_clock_gives_back_too_much_for() -> None:
    rng, better, worse = random.Random(0), 0, 0
    for seed in range(20):
        lab = lab_of(firsts(seed, 60, -SIGMA0))
        noise = lab_noise(lab)
        assert noise.busy is not None and lab_noise(lab_of(firsts(seed, 60, 0, share=0.0))).busy is None
        nothing = standing(99, 1.0 - 2 * SIGMA0 + rng.gauss(0, SIGMA0), occasions=(occasion(61, math.exp(2)),))
        better += effect_of(nothing, lab.baseline, replace(noise, busy=None)).p_better > 0.95
        worse += effect_of(nothing, lab.baseline, noise).p_better > 0.95
    assert better >= 6 and worse <= 3
