"""Comparisons and decisions on random labs: what may not matter does not, and what is worse never looks better.

Whatever is drawn is decided or refused in order: no time, speed or score makes a number that is none. How far a
comparison is right says test_policy_drift.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation.engine import End
from scheduler.domain.candidate import CandidateState, CandidateStats, Occasion
from scheduler.domain.decision import PRESETS, Decision, Effect, MeasureBaseline, Noise, Promote
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Run, RunKind
from scheduler.policy.decide import awaited_control, decide, is_holding, promotion_waits_until
from scheduler.policy.drift import contrast, mean_error
from scheduler.policy.stats import effect_of, lab_noise
from tests.scheduler.policy_kit import SIGMA0, ListedWorld, simulate, standing

RUN_S = 300.0
SLOTS = ("m/gpu0", "m/gpu1", "n/gpu0")
EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32)
Runs = tuple[Occasion, ...]


def some_noise(rng: random.Random) -> Noise:
    drift, offset, seed_sd = (SIGMA0 * rng.choice(times) for times in ((0, 1, 3, 10), (0, 1, 4), (0, 0.5, 2)))
    return Noise(SIGMA0, 9, drift, offset, 8 * RUN_S, seed_sd)


def some_runs(rng: random.Random, n: int, span: float = 40.0) -> Runs:
    return tuple(
        Occasion(rng.uniform(0, span) * RUN_S, rng.choice(SLOTS), rng.randint(1, 4), rng.choice([None, 0.8, 1.0]))
        for _ in range(n)
    )


def measured(number: int, rng: random.Random, n: int, **more: object) -> CandidateStats:
    scores = [1.0 + rng.gauss(0, 3 * SIGMA0) for _ in range(n)]
    return standing(number, *scores, occasions=some_runs(rng, n), **more)


def some_lab(seed: int, preset: str = "default") -> LabSnapshot:
    """A baseline, candidates of it and of a former one in every state, runs under way."""
    rng = random.Random(seed)
    base = measured(1, rng, rng.randint(1, 6), state=CandidateState.BASELINE, pending_runs=rng.choice([0, 0, 1]))
    former = replace(measured(2, rng, 3, state=CandidateState.PROMOTED), base_id=None)
    base = replace(base, base_id="c0002")
    others = []
    for number in range(3, rng.randint(4, 12)):
        state = rng.choice([CandidateState.OPEN] * 3 + [CandidateState.CONTENDER, CandidateState.DISCARDED])
        running = rng.random() < 0.3
        one = measured(
            number, rng, rng.randint(0, 3), state=state, pending_runs=running, code_lines=rng.choice([0, 90, 100]),
            running_since=(rng.uniform(30, 40) * RUN_S,) if running else (), failed_runs=rng.choice([0, 0, 1]),
        )  # fmt: skip
        others.append(replace(one, base_id=rng.choice(["c0001", "c0001", "c0002"])))
    now = rng.uniform(35, 41) * RUN_S
    standings = (former, base, *others)
    return LabSnapshot("c0001", False, standings, SIGMA0, PRESETS[preset], run_s=RUN_S, now=now)


def each(lab: LabSnapshot, change: Callable[[CandidateStats], CandidateStats], **more: object) -> LabSnapshot:
    return replace(lab, standings=tuple(map(change, lab.standings)), **more)  # type: ignore[arg-type]


def each_run(lab: LabSnapshot, change: Callable[[Occasion], Occasion]) -> LabSnapshot:
    return each(lab, lambda stats: replace(stats, occasions=tuple(map(change, stats.occasions))))


def in_short(decision: Decision | None) -> tuple[object, ...]:
    """What was decided and on whom; a decision's figures may differ in their last digits."""
    about = ("candidate_id", "base_id", "parts", "rule")
    return (type(decision), *(getattr(decision, name, None) for name in about))


# What may not matter.


def later(lab: LabSnapshot, seconds: float) -> LabSnapshot:
    assert lab.now is not None
    moved = each_run(lab, lambda run: replace(run, at=run.at + seconds))
    since = [tuple(at + seconds for at in stats.running_since) for stats in moved.standings]
    standings = tuple(replace(s, running_since=at) for s, at in zip(moved.standings, since, strict=True))
    return replace(moved, standings=standings, now=lab.now + seconds)


def on_other_slots(lab: LabSnapshot) -> LabSnapshot:
    """Every node and slot has another name, and they sort the other way."""
    names = {slot: f"z{9 - 'mn'.index(slot[0])}/s{9 - int(slot[-1])}" for slot in SLOTS}
    return each_run(lab, lambda run: replace(run, slot_id=names[run.slot_id]))


def with_other_seeds(lab: LabSnapshot) -> LabSnapshot:
    return each_run(lab, lambda run: replace(run, seed=1000 - run.seed))


def scored_higher(lab: LabSnapshot) -> LabSnapshot:
    return each(lab, lambda stats: replace(stats, scores=tuple(score + 0.75 for score in stats.scores)))


def in_other_units(lab: LabSnapshot) -> LabSnapshot:
    scaled = each(lab, lambda stats: replace(stats, scores=tuple(score * 8 for score in stats.scores)))
    return replace(scaled, noise_prior_bpb=8 * SIGMA0, noise_prior_seed_bpb=8 * lab.noise_prior_seed_bpb)


def results_came_in_another_order(lab: LabSnapshot) -> LabSnapshot:
    """Of candidates with several; what happened is the same."""

    def turned(stats: CandidateStats) -> CandidateStats:
        return replace(stats, scores=stats.scores[::-1], occasions=stats.occasions[::-1])

    return each(lab, turned)


SAME = [
    lambda lab: later(lab, 1.8e9), on_other_slots, with_other_seeds, scored_higher, in_other_units,
]  # fmt: skip


@pytest.mark.parametrize("change", SAME, ids=["later", "slots", "seeds", "shift", "scale"])
@pytest.mark.parametrize("preset", ["default", "rounds"])
@EXAMPLES
@given(seed=SEEDS)
def test_names_of_slots_and_seeds_the_hour_the_level_and_the_unit_of_scores_change_no_decision(
    seed: int, preset: str, change: Callable[[LabSnapshot], LabSnapshot]
) -> None:
    lab = some_lab(seed, preset)
    lab = replace(lab, noise_prior_seed_bpb=random.Random(seed).choice([0.0, SIGMA0]))
    assert in_short(decide(change(lab))) == in_short(decide(lab))
    assert is_holding(change(lab)) == is_holding(lab)
    assert (promotion_waits_until(change(lab)) is None) == (promotion_waits_until(lab) is None)


@EXAMPLES
@given(seed=SEEDS)
def test_the_order_of_results_and_of_candidates_changes_neither_noise_nor_effects(seed: int) -> None:
    lab = replace(some_lab(seed), noise_prior_seed_bpb=SIGMA0)
    other = results_came_in_another_order(replace(lab, standings=lab.standings[::-1]))
    noise, same = lab_noise(lab), lab_noise(other)
    assert [noise.sigma, noise.drift, noise.offset, noise.seed_sd] == pytest.approx(
        [same.sigma, same.drift, same.offset, same.seed_sd], rel=1e-9, abs=1e-15
    )
    for stats in lab.standings:
        if stats.scores:
            one, two = (effect_of(it.of(stats.candidate_id), it.baseline, noise) for it in (lab, other))
            assert (one.diff, one.se, one.p_better) == pytest.approx((two.diff, two.se, two.p_better), abs=1e-9)


# What is worse never looks better.


@EXAMPLES
@given(seed=SEEDS)
def test_a_better_score_in_the_same_noise_never_lowers_the_chance(seed: int) -> None:
    """On one node: there the weights of a program's runs are positive."""
    rng = random.Random(seed)
    noise = replace(some_noise(rng), offset=0.0, seed_sd=0.0)
    ours, theirs = measured(2, rng, rng.randint(1, 3)), measured(1, rng, rng.randint(1, 5))
    better = list(ours.scores)
    better[rng.randrange(len(better))] -= rng.uniform(0, 0.01)
    before, after = (effect_of(it, theirs, noise) for it in (ours, replace(ours, scores=tuple(better))))
    assert after.p_better >= before.p_better - 1e-12 and after.diff <= before.diff + 1e-15
    assert after.se == before.se


@EXAMPLES
@given(seed=SEEDS)
def test_one_more_control_never_raises_the_error(seed: int) -> None:
    rng = random.Random(seed)
    noise, ours, theirs = some_noise(rng), measured(2, rng, rng.randint(1, 3)), measured(1, rng, rng.randint(1, 6))
    (control,) = some_runs(rng, 1, span=80.0)
    more = replace(theirs, scores=(*theirs.scores, 1.0), occasions=(*theirs.occasions, control))
    assert contrast(ours, more, noise)[1] <= contrast(ours, theirs, noise)[1] * (1 + 1e-9)
    assert mean_error(more, noise) <= mean_error(theirs, noise) * (1 + 1e-9) + noise.sigma


@EXAMPLES
@given(seed=SEEDS, further=st.floats(1.0, 50.0))
def test_a_control_far_away_in_time_says_less_than_a_near_one(seed: int, further: float) -> None:
    rng = random.Random(seed)
    noise, ours, (near,) = some_noise(rng), measured(2, rng, 1), some_runs(rng, 1)
    at = ours.occasions[0].at
    far = replace(near, at=at + further * (near.at - at))
    errors = [contrast(ours, standing(1, 1.0, occasions=(run,)), noise)[1] for run in (near, far)]
    assert errors[0] <= errors[1] * (1 + 1e-9)
    both = standing(1, 1.0, 2.0, occasions=(near, replace(far, seed=near.seed + 10, slot_id=near.slot_id)))
    pure = replace(noise, offset=0.0, seed_sd=0.0)
    weights = [
        -contrast(standing(2, 0.0, occasions=ours.occasions), replace(both, scores=scores), pure)[0]
        for scores in ((1.0, 0.0), (0.0, 1.0))
    ]
    assert weights[0] >= weights[1] - 1e-9 and sum(weights) == pytest.approx(1)


def test_of_two_that_win_the_one_with_the_better_effect_is_promoted_not_the_one_from_the_faster_hour() -> None:
    """The second ran in a good hour, in which its control gained as much; the first is truly better."""
    noisy = [
        standing(
            number, 1.0, 1.0 + swing, state=CandidateState.DISCARDED,
            occasions=(Occasion(0, "n/a", 1), Occasion(40 * RUN_S, "n/a", 2)),
        )
        for number, swing in enumerate((0.01, 0.0101, 0.0099, 0.01), 10)
    ]  # fmt: skip
    base = standing(
        1, 1.01, 1.0, state=CandidateState.BASELINE, occasions=(Occasion(40 * RUN_S, "n/a", 1), Occasion(0, "n/a", 2))
    )
    first = standing(2, 1.01 - 0.007, occasions=(Occasion(40.1 * RUN_S, "n/a", 1),))
    second = standing(3, 1.0 - 0.005, occasions=(Occasion(0.1 * RUN_S, "n/a", 2),))
    lab = LabSnapshot("c0001", True, (base, first, second, *noisy), SIGMA0, PRESETS["default"], run_s=RUN_S)
    noise = lab_noise(lab)
    assert noise.drift > 3 * noise.sigma
    lab = replace(lab, gates=replace(lab.gates, first_baseline_runs=2))
    promoted = decide(lab)
    assert isinstance(promoted, Promote) and promoted.candidate_id == "c0002"


# Whatever is drawn.


class RestlessWorld(ListedWorld):
    """Every run finds the machine at another speed, and the baseline's fail, all but the first."""

    measured = 0

    def speed(self, at: float, slot_id: str) -> float | None:
        return self._random.choice([0.7, 0.9, 1.0, 1.0])

    def ending(self, run: Run) -> tuple[float, End]:
        lasts, end = super().ending(run)
        self.measured += run.kind is RunKind.BASELINE
        fails = run.kind is RunKind.BASELINE and self.measured > 1 and self._random.random() < 0.7
        return lasts, End.CRASHED if fails else end


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_a_search_ends_whose_controls_fail_on_a_machine_that_is_never_the_same(slots: int, preset: str) -> None:
    rng = random.Random(slots)
    effects = [rng.choice([0.0, -3, 4]) * SIGMA0 for _ in range(40)]
    played = simulate(RestlessWorld(effects, slots, lost_share=0.1), slots, slots, PRESETS[preset])
    assert not played.lab.undecided and sum(step.kind == "idea" for step in played.log) == 40
    reasons = [d.reason for d in played.decisions if isinstance(d, MeasureBaseline)]
    controls = [reason for reason in reasons if reason.startswith("a control")]
    # Failures allowed, and those that ran with the last of them.
    assert all(stats.failed_runs <= 3 + 2 for stats in played.lab.standings)
    assert len(controls) <= 0.1 * sum(step.kind == "result" for step in played.log) + 4 * len(played.lineage)
    assert preset != "greedy" or not controls


TIMES = st.sampled_from([0.0, 1.0, 1e5, 1.8e9, 1.8e9 + 1e-3, -1e9, 1e12])
SPEEDS = st.sampled_from([None, 0.0, 1e-9, 0.2, 1.0, 1.4, 1e9])
RUN = st.builds(Occasion, TIMES, st.sampled_from([*SLOTS, "", "alone", "a/b/c"]), st.integers(0, 2), SPEEDS)
SCORE = st.sampled_from([0.0, 1.0, 1.0, 1.0 + 1e-12, 1.001, 50.0, 1e6])


@st.composite
def strange_labs(draw: st.DrawFn) -> LabSnapshot:
    standings = []
    for number in range(1, draw(st.integers(2, 6))):
        n = draw(st.integers(0 if number > 1 else 1, 4))
        runs = tuple(draw(st.lists(RUN, min_size=n, max_size=n)))
        since = tuple(sorted(draw(st.lists(TIMES, max_size=2))))
        stats = standing(
            number, *draw(st.lists(SCORE, min_size=n, max_size=n)), occasions=runs if draw(st.booleans()) else (),
            state=draw(st.sampled_from([CandidateState.OPEN, CandidateState.CONTENDER, CandidateState.DISCARDED])),
            pending_runs=len(since), running_since=since, failed_runs=draw(st.integers(0, 2)),
            suspect_scores=draw(st.integers(0, n)), code_lines=draw(st.sampled_from([0, 10])),
        )  # fmt: skip
        standings.append(replace(stats, state=CandidateState.BASELINE, base_id=None) if number == 1 else stats)
    return LabSnapshot(
        "c0001", True, tuple(standings), SIGMA0, PRESETS[draw(st.sampled_from(list(PRESETS)))],
        left_out=draw(st.sampled_from([0, 1000])), run_s=draw(st.sampled_from([None, 0.0, 1e-3, 300.0, 1e6])),
        now=draw(st.none() | TIMES), noise_prior_seed_bpb=draw(st.sampled_from([0.0, SIGMA0])),
    )  # fmt: skip


@settings(max_examples=600, deadline=None, derandomize=True)
@given(strange_labs())
def test_no_time_speed_or_score_makes_a_number_that_is_none(lab: LabSnapshot) -> None:
    decision, noise = decide(lab), lab_noise(lab)
    assert all(map(math.isfinite, (noise.sigma, noise.drift, noise.offset, noise.seed_sd))) and noise.sigma > 0
    effect = getattr(decision, "effect", None)
    if isinstance(effect, Effect):
        assert all(map(math.isfinite, (effect.diff, effect.se, effect.shrunken))) and 0 <= effect.p_better <= 1
        assert effect.se > 0
    if isinstance(decision, MeasureBaseline):
        assert "nan" not in decision.reason and "inf" not in decision.reason
    until = promotion_waits_until(lab)
    assert until is None or (lab.now is not None and lab.run_s and 0 < until - lab.now <= 1.1 * lab.run_s)
    for stats in lab.standings:
        awaited_control(lab, stats.candidate_id)
