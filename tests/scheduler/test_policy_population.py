"""What the first scores of ideas say of the machine: against plain matrices, and on made-up searches of known truth."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from scheduler.domain.candidate import CandidateState, FirstScore, Occasion, Origin
from scheduler.domain.decision import Noise, SlotOffset
from scheduler.domain.lab import LabSnapshot
from scheduler.policy import population
from scheduler.policy.decide import decide
from scheduler.policy.drift import DRIFTS, OFFSETS, contrast, is_unsteady, mean_error
from scheduler.policy.population import FIRSTS_PER_SLOT, MOST_FIRSTS, STEP, first_scores, log_evidence, slot_offsets
from scheduler.policy.stats import lab_noise
from tests.scheduler.policy_kit import SIGMA0, baseline, board, standing

RUN_S = 300.0
SCALE_S = 24 * RUN_S
SLOTS = 8
RATIOS = tuple(ratio for ratio, _ in DRIFTS), tuple(ratio for ratio, _ in OFFSETS)

Machine = Callable[[float, int], float]  # time in run lengths and slot to what is added, in sigma


def steady(at: float, slot: int) -> float:
    return 0.0


def slow_slot(at: float, slot: int) -> float:
    return 3.0 * (slot == 5)


def wave(at: float, slot: int) -> float:
    return 3.0 * math.sin(at / 3)


def ideas(seed: int, n: int, machine: Machine = steady, spread: float = 1.0) -> tuple[FirstScore, ...]:
    """First scores as they come, eight at a time; one idea in six does a lot of harm, as ideas do."""
    rng, found = random.Random(seed), []
    for k in range(n):
        at, slot = k // SLOTS + 0.5, k % SLOTS
        effect = rng.expovariate(0.1) if rng.random() < 1 / 6 else rng.gauss(0, spread)
        score = 1.0 + SIGMA0 * (effect + machine(at, slot) + rng.gauss(0, 1))
        found.append(FirstScore(score, "c0001", Occasion(at * RUN_S, f"n/{slot}", 1)))
    return tuple(found)


def lab_of(firsts: tuple[FirstScore, ...], machine: Machine = steady) -> LabSnapshot:
    """A baseline run thrice before the ideas came, none of which was repeated."""
    at = tuple(Occasion(0.5 * RUN_S, f"n/{slot}", slot + 1) for slot in range(3))
    scores = [1.0 + SIGMA0 * (0.5 * (slot - 1) + machine(0.5, slot)) for slot in range(3)]
    base = replace(baseline(*scores), base_id=None, occasions=at)
    settled = [
        standing(k, one.score, state=CandidateState.DISCARDED, occasions=(one.occasion,))
        for k, one in enumerate(firsts, 2)
    ]
    return replace(board(base, *settled), run_s=RUN_S)


def of(firsts: tuple[FirstScore, ...]) -> dict[tuple[float, float], float]:
    found = iter(log_evidence(firsts, SIGMA0, *RATIOS, SCALE_S))
    return {(d, o): next(found) for d in RATIOS[0] for o in RATIOS[1]}


def test_a_lab_begins_in_doubt_and_the_first_scores_of_its_ideas_settle_it() -> None:
    """On a steady machine, without one repeat of an idea: errors shrink to those of independent runs."""
    young = lab_noise(lab_of(()))
    assert young.drift > 0 and not is_unsteady(young)
    settled = [lab_noise(lab_of(ideas(seed, 104))) for seed in range(50)]
    believed = [noise.drift == noise.offset == 0 for noise in settled]
    assert sum(believed) >= 10
    assert sum(b or noise.p_unsteady < 0.15 for b, noise in zip(believed, settled, strict=True)) >= 28
    assert sum(is_unsteady(noise) for noise in settled) <= 2


def test_a_slow_slot_is_found_and_taken_out_of_every_comparison() -> None:
    noises = [lab_noise(lab_of(ideas(seed, 104, slow_slot), slow_slot)) for seed in range(50)]
    assert sum(noise.offset > 0 for noise in noises) >= 40 and sum(is_unsteady(noise) for noise in noises) >= 20
    more = []
    for noise in noises:
        by_id = {slot.slot_id: slot.offset_bpb for slot in noise.slots}
        if by_id:
            more.append(by_id.pop("n/5") - np.mean(list(by_id.values())))
    assert 1.7 < np.mean(more) / SIGMA0 < 3.0  # most of it: some is cut off, and some shrunken
    noise = next(noise for noise in noises if noise.slots)
    base = lab_of(()).baseline
    slow, other = (standing(2, 1.0, occasions=(Occasion(RUN_S, slot, 1),)) for slot in ("n/5", "n/6"))
    assert contrast(slow, base, noise)[0] < contrast(other, base, noise)[0] - SIGMA0
    unknown = standing(2, 1.0, occasions=(Occasion(RUN_S, "n/99", 1),))
    assert contrast(unknown, base, noise)[1] > contrast(other, base, noise)[1]
    assert mean_error(unknown, noise) > mean_error(other, noise)


def test_a_drift_is_doubted_by_first_scores_and_bounded_by_what_ideas_may_do_themselves() -> None:
    """Ideas that get better and worse look like a machine that does: they cannot make it certain."""
    bound = math.log(population.IDEAS_TREND)
    for seed in range(10):
        table = of(ideas(seed, 104, wave))
        for offset in RATIOS[1]:
            likeliest = max(table[drift, offset] for drift in RATIOS[0])
            assert table[0.0, offset] >= likeliest + bound - 1e-9
        assert lab_noise(lab_of(ideas(seed, 104, wave))).drift > 0


def test_what_ideas_of_a_baseline_are_worth_together_moves_neither_drift_nor_slots() -> None:
    """A baseline of which all ideas gain, or all harm, tells nothing of the machine."""

    def with_others(shift: float) -> tuple[FirstScore, ...]:
        moved = [replace(one, score=one.score + shift, base_id="c0002") for one in ideas(2, 48, wave)]
        return tuple(sorted((*ideas(1, 48, wave), *moved), key=lambda one: one.occasion.at))

    assert of(with_others(0.05)) == pytest.approx(of(with_others(0.0)), abs=1e-6)


def test_the_longest_tails_move_it_no_further_than_a_bad_idea() -> None:
    firsts = ideas(3, 64)
    wrecked, worse = (
        tuple(replace(one, score=one.score + far * (k == 20)) for k, one in enumerate(firsts)) for far in (1.0, 1e6)
    )
    assert of(wrecked) == of(worse)
    args = (SIGMA0, 0.0, SIGMA0, SCALE_S)
    assert slot_offsets(wrecked, *args) == slot_offsets(worse, *args)


@pytest.mark.parametrize("seed", range(4))
def test_offsets_of_slots_are_the_conditional_means_of_the_joint_normal(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a wide prior on each baseline's mean, by the covariance of scores and offsets written out."""
    monkeypatch.setattr(population, "_spread", lambda groups: 2 * SIGMA0)
    monkeypatch.setattr(population, "CUT", 1e9)
    rng = random.Random(seed)
    firsts = tuple(replace(one, base_id=rng.choice(("c0001", "c0004", "c0007"))) for one in ideas(seed, 40, slow_slot))
    drift, offset = SIGMA0, 1.5 * SIGMA0
    groups = population._by_baseline(firsts)
    runs = [one for _, occasions in groups for one in occasions]
    which = [number for number, (_, occasions) in enumerate(groups) for _ in occasions]
    y = np.array([value for values, _ in groups for value in values])
    covariance = np.array([
        [
            4 * SIGMA0**2 * (i == j) + drift**2 * math.exp(-abs(a.at - b.at) / SCALE_S)
            + offset**2 * (a.slot_id == b.slot_id) + 1.0 * (which[i] == which[j])
            for j, b in enumerate(runs)
        ]
        for i, a in enumerate(runs)
    ])  # fmt: skip
    for slot in slot_offsets(firsts, SIGMA0, drift, offset, SCALE_S):
        with_it = offset**2 * np.array([one.slot_id == slot.slot_id for one in runs])
        weights = np.linalg.solve(covariance, with_it)
        assert slot.offset_bpb == pytest.approx(weights @ y, abs=1e-7)
        assert slot.error_bpb == pytest.approx(math.sqrt(offset**2 - weights @ with_it), rel=1e-4)


def test_few_ideas_and_equal_scores_say_nothing_and_break_nothing() -> None:
    assert set(log_evidence(ideas(1, 15), SIGMA0, *RATIOS, SCALE_S)) == {0.0}
    assert slot_offsets(ideas(1, 15), SIGMA0, 0.0, SIGMA0, SCALE_S) == ()
    equal = tuple(replace(one, score=1.0) for one in ideas(1, 40))
    assert all(math.isfinite(value) for value in log_evidence(equal, SIGMA0, *RATIOS, SCALE_S))
    assert {slot.offset_bpb for slot in slot_offsets(equal, SIGMA0, 0.0, SIGMA0, SCALE_S)} == {0.0}
    alone = tuple(replace(one, base_id=f"c{k:04d}") for k, one in enumerate(ideas(1, 40)))
    assert set(log_evidence(alone, SIGMA0, *RATIOS, SCALE_S)) == {0.0}


def test_only_the_newest_first_scores_of_new_ideas_are_looked_at_and_a_few_at_a_time() -> None:
    most = FIRSTS_PER_SLOT * SLOTS
    firsts = ideas(1, most + 3 * STEP + 1)
    lab = lab_of(firsts)
    assert first_scores(lab) == firsts[3 * STEP : most + 3 * STEP]
    left_out = replace(lab_of(firsts[40:]), firsts_left_out=firsts[:40])
    assert first_scores(left_out) == first_scores(lab)
    merged = [replace(one, origin=Origin.UNION) for one in lab.standings]
    unknown = [replace(one, occasions=()) for one in lab.standings]
    assert first_scores(replace(lab, standings=tuple(merged))) == ()
    assert first_scores(replace(lab, standings=tuple(unknown))) == ()


def test_doubt_buys_no_control_and_a_shown_drift_does() -> None:
    lab = lab_of(ideas(1, 8))
    assert lab_noise(lab).drift > 0 and decide(lab) is None
    noise = Noise(SIGMA0, 9, drift=SIGMA0, slots=(SlotOffset("n/1", 0.0, 0.0),), p_unsteady=0.49)
    assert not is_unsteady(noise) and is_unsteady(replace(noise, p_unsteady=0.51))


@pytest.mark.parametrize(("slots", "kept"), [(1, 104), (8, 104), (16, 208), (64, MOST_FIRSTS)])
def test_more_slots_have_more_first_scores_looked_at_as_of_the_same_time(slots: int, kept: int) -> None:
    found = ideas(1, MOST_FIRSTS + 40)
    moved = [
        replace(one, occasion=replace(one.occasion, at=k * RUN_S / slots, slot_id=f"n/{k % slots}"))
        for k, one in enumerate(found)
    ]
    assert first_scores(lab_of(tuple(moved))) == tuple(moved[-kept:])
