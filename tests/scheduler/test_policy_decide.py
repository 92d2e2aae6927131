"""Deciding on whole boards: what is due, in which order, and that it always comes to an end."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation.transitions import applied, finished, merged, with_candidate
from scheduler.domain.candidate import CandidateState, Origin
from scheduler.domain.decision import (
    PRESETS,
    Combine,
    Discard,
    MeasureBaseline,
    Merge,
    Promote,
    Replicate,
    Retry,
    Shelve,
)
from scheduler.domain.lab import LabSnapshot
from scheduler.policy.decide import baseline_is_hopeless, decide
from scheduler.policy.merging import near_miss_union
from tests.scheduler.policy_kit import baseline, board, standing

GOOD, CLOSE, BAD = 0.990, 0.9993, 1.010


def settle(now: LabSnapshot) -> tuple[LabSnapshot, list[object]]:
    """Apply decisions until none is due. Fails the test when that takes implausibly long."""
    taken: list[object] = []
    while (decision := decide(now)) is not None:
        now, _ = applied(now, decision), taken.append(decision)
        assert len(taken) < 200, "decisions without end"
    return now, taken


def test_the_first_baseline_is_measured_three_times_before_anything_is_judged() -> None:
    now, taken = settle(board(baseline(), standing(2, GOOD)))
    assert [type(d) for d in taken] == [MeasureBaseline] * 3
    now, taken = settle(finished(finished(now, "c0001", 1.0), "c0001", 1.0))
    assert taken == []
    _, taken = settle(finished(now, "c0001", 1.0))
    assert isinstance(taken[0], Promote)


def test_runs_queued_by_init_are_not_asked_for_again() -> None:
    assert decide(board(baseline(pending_runs=3))) is None


def test_of_two_winners_the_better_becomes_the_baseline_and_the_other_is_carried_over() -> None:
    now, taken = settle(board(baseline(1.0, 1.0, 1.0), standing(2, 0.991), standing(3, 0.985)))
    assert isinstance(taken[0], Promote) and taken[0].candidate_id == "c0003"
    assert now.baseline_id == "c0003"
    assert any(isinstance(d, Combine) and d.parts == ("c0002",) and d.base_id == "c0003" for d in taken)
    assert now.of("c0002").state is CandidateState.SHELVED and now.of("c0004").base_id == "c0003"
    assert MeasureBaseline in [type(d) for d in taken]


def test_of_equal_winners_the_one_submitted_first_is_promoted() -> None:
    equals = [standing(10_000, GOOD), standing(9_999, GOOD)]
    decision = decide(board(baseline(1.0, 1.0, 1.0), *equals))
    assert isinstance(decision, Promote) and decision.candidate_id == "c9999"


def test_a_later_baseline_is_compared_with_from_its_first_run() -> None:
    now = board(baseline(1.0, pending_runs=1), standing(2, BAD), first=False)
    assert isinstance(decide(now), Discard)


def test_a_candidate_without_a_score_is_settled_with_its_failure() -> None:
    decision = decide(board(baseline(1.0, 1.0, 1.0), standing(2, failed_runs=1, failure="oom: too wide")))
    assert decision == Discard("c0002", "c0001", None, "oom: too wide")


def test_a_candidate_whose_runs_were_cancelled_one_by_one_is_settled_too() -> None:
    decision = decide(board(baseline(1.0, 1.0, 1.0), standing(2)))
    assert isinstance(decision, Discard) and decision.effect is None and "cancelled" in decision.reason


def test_what_can_get_no_score_is_settled_before_the_baseline_is_known() -> None:
    now = board(baseline(pending_runs=3), standing(2, failed_runs=1, failure="crash"), standing(3, GOOD))
    assert isinstance(decide(now), Discard)
    assert decide(applied(now, decide(now))) is None


def test_a_failed_repeat_is_retried_once() -> None:
    contender = standing(2, CLOSE, state=CandidateState.CONTENDER, failed_runs=1, failure="crash")
    now = board(baseline(1.0, 1.0, 1.0), contender)
    assert isinstance(decide(now), Retry) and "crash" in decide(now).reason
    now = finished(applied(now, decide(now)), "c0002", None)
    assert isinstance(decide(now), Discard)


def test_a_retry_does_not_cost_a_contender_its_third_run() -> None:
    now = board(baseline(1.0, 1.0, 1.0), standing(2, CLOSE, state=CandidateState.CONTENDER, failed_runs=1))
    now = finished(applied(now, decide(now)), "c0002", 1.0001)
    third = decide(now)
    assert isinstance(third, Replicate)
    assert isinstance(decide(finished(applied(now, third), "c0002", 0.9999)), Shelve)


def test_a_contender_is_not_retried_against_a_baseline_it_cannot_beat() -> None:
    contender = standing(2, CLOSE, state=CandidateState.CONTENDER, failed_runs=1)
    assert isinstance(decide(board(baseline(0.990, 0.990), contender, first=False)), Discard)


def test_nothing_is_judged_while_its_run_is_on_the_way() -> None:
    assert decide(board(baseline(1.0, 1.0, 1.0), standing(2, GOOD, pending_runs=1))) is None


def test_a_promoted_baseline_is_measured_again_at_once() -> None:
    now = board(baseline(1.0), standing(2, pending_runs=1), first=False)
    assert isinstance(decide(now), MeasureBaseline)
    assert decide(applied(now, decide(now))) is None


@pytest.mark.parametrize(
    ("first", "runs", "trials", "measured"),
    [
        (True, 3, 19, False),
        (True, 3, 20, True),  # every twentieth scored candidate earns it a run
        (True, 4, 39, False),
        (True, 4, 40, True),  # so do twice, four times, eight times as many
        (True, 5, 79, False),
        (True, 8, 5000, False),  # eight are the most
        (False, 1, 0, True),  # two are the least
        (False, 2, 19, False),
        (False, 2, 20, True),
        (False, 3, 39, False),
        (False, 3, 40, True),
        (False, 4, 79, False),
        (False, 4, 80, True),
    ],
)
def test_a_baseline_that_lasts_is_measured_again(first: bool, runs: int, trials: int, measured: bool) -> None:
    base = replace(baseline(*[1.0] * runs), base_id=None)
    now = replace(board(base, first=first), left_out=trials)
    assert isinstance(decide(now), MeasureBaseline) == measured


def test_a_baseline_that_cannot_run_stops_the_lab() -> None:
    broken = board(baseline(failed_runs=3, failure="crash"), standing(2, GOOD))
    assert baseline_is_hopeless(broken)
    assert decide(broken) is None
    assert not baseline_is_hopeless(board(baseline(1.0, failed_runs=3)))
    assert not baseline_is_hopeless(board(baseline(failed_runs=3, pending_runs=1)))


def test_a_baseline_that_never_ran_is_not_tried_more_often_than_it_must() -> None:
    assert decide(board(baseline(failed_runs=2, pending_runs=1))) is None
    assert isinstance(decide(board(baseline(1.0, failed_runs=1, pending_runs=1))), MeasureBaseline)


def test_one_crash_of_the_baseline_does_not_stop_a_lab_that_measures_it_once() -> None:
    once = board(baseline(failed_runs=1, failure="crash"), gates=PRESETS["greedy"])
    assert not baseline_is_hopeless(once) and isinstance(decide(once), MeasureBaseline)
    assert baseline_is_hopeless(finished(applied(once, decide(once)), "c0001", None))


def test_a_baseline_that_mostly_fails_is_compared_with_as_far_as_it_came() -> None:
    shaky = board(baseline(1.0, failed_runs=3), standing(2, GOOD))
    assert isinstance(decide(shaky), Promote)


def test_more_baseline_runs_than_asked_for_keep_no_one_waiting() -> None:
    assert isinstance(decide(board(baseline(1.0, 1.0, 1.0, pending_runs=1), standing(2, GOOD))), Promote)


STATES = st.sampled_from(
    [CandidateState.OPEN, CandidateState.CONTENDER, CandidateState.DISCARDED, CandidateState.SHELVED]
)
SCORES = st.lists(st.floats(0.98, 1.02), max_size=4)
FORMER = "c0099"


@st.composite
def boards(draw: st.DrawFn) -> LabSnapshot:
    """Any board at all, the ones no lab would come to included; some candidates are of a former baseline."""
    base = baseline(*draw(SCORES), pending_runs=draw(st.integers(0, 2)), failed_runs=draw(st.integers(0, 4)))
    base = replace(base, code_lines=draw(st.sampled_from([0, 100])))
    candidates = [replace(standing(99, *draw(SCORES), state=CandidateState.PROMOTED), base_id=FORMER)]
    for number in range(2, 2 + draw(st.integers(0, 6))):
        scores = draw(SCORES)
        counts = {name: draw(st.integers(0, 2)) for name in ("pending_runs", "failed_runs")}
        counts |= {"suspect_scores": draw(st.integers(0, len(scores))), "code_lines": draw(st.integers(90, 110))}
        made = standing(number, *scores, state=draw(STATES), **counts)
        candidates.append(replace(made, base_id=draw(st.sampled_from([base.candidate_id, FORMER]))))
    gates = draw(st.sampled_from(list(PRESETS.values())))
    return with_merge(draw, board(base, *candidates, first=draw(st.booleans()), gates=gates))


def with_merge(draw: st.DrawFn, now: LabSnapshot) -> LabSnapshot:
    """Some boards have a union behind them, of any parts, in any state."""
    shelf = [s.candidate_id for s in now.in_state(CandidateState.SHELVED)]
    if not shelf or not draw(st.booleans()):
        return now
    union = replace(standing(98, *draw(SCORES), state=draw(STATES), origin=Origin.UNION), failed_runs=1)
    halving = draw(st.integers(0, 2))
    merge = Merge(1, now.baseline_id, tuple(shelf), tuple(shelf), union.candidate_id, halving, -0.001)
    return replace(with_candidate(now, union), merges=(merge,))


@given(boards())
def test_any_board_settles_in_few_decisions_each_on_someone_it_is_due_for(now: LabSnapshot) -> None:
    before = now
    now, taken = settle(now)
    assert len(taken) <= 2 * len(now.standings) + now.gates.first_baseline_runs
    for decision in taken:
        if not isinstance(decision, MeasureBaseline | Combine):
            subject = before.of(decision.candidate_id)
            assert subject.state.undecided
            assert not subject.pending_runs or subject.state is CandidateState.CONTENDER  # left behind by a promotion


@given(boards())
def test_a_settled_board_waits_for_runs_and_for_nothing_else(now: LabSnapshot) -> None:
    now, _ = settle(now)
    waits_for_baseline = now.first_baseline and now.baseline.pending_runs
    for candidate in now.undecided:
        assert candidate.pending_runs or waits_for_baseline or not now.baseline.scores


@given(boards())
def test_no_one_is_promoted_on_suspect_scores_alone(now: LabSnapshot) -> None:
    _, taken = settle(now)
    for promotion in (decision for decision in taken if isinstance(decision, Promote)):
        promoted = now.of(promotion.candidate_id)
        assert promoted.n > promoted.suspect_scores


@given(boards(), st.randoms())
def test_the_order_of_the_board_changes_no_verdict(now: LabSnapshot, rng: random.Random) -> None:
    other = replace(now, standings=tuple(rng.sample(now.standings, len(now.standings))))
    here, taken = settle(now)
    there, taken_there = settle(other)
    assert here.baseline_id == there.baseline_id
    assert {here.of(s.candidate_id) for s in now.standings} == {there.of(s.candidate_id) for s in now.standings}
    assert sorted(map(repr, taken)) == sorted(map(repr, taken_there))


@settings(deadline=None)
@given(boards(), st.randoms(), st.integers(1, 8))
def test_merging_comes_to_an_end_whatever_conflicts_and_whatever_fails(
    now: LabSnapshot, rng: random.Random, slots: int
) -> None:
    """Every merge loses some parts or all of them, and what came of it is measured and bad."""
    merges = 0
    while decision := decide(now) or near_miss_union(now, slots):
        if isinstance(decision, Combine):
            merges += 1
            assert merges <= 60, "merges without end"
            now = merged(now, decision, tuple(part for part in decision.parts if rng.random() < 0.7))
        else:
            now = applied(now, decision)
        for standing_ in now.undecided:
            if standing_.pending_runs:
                now = finished(now, standing_.candidate_id, 1.05 if rng.random() < 0.8 else None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.floats(0.0002, 0.003))
def test_every_search_comes_to_an_end(seed: int, slots: int, sigma: float) -> None:
    """Random candidates, noise and crashes: each ends decided, no one runs more than the rule allows."""
    rng = random.Random(seed)
    truth = {"c0001": 1.0} | {f"c{i:04d}": 1.0 + rng.gauss(0.0005, 0.002) for i in range(2, 14)}
    now = board(baseline())
    for ref in list(truth)[1:]:
        now = with_candidate(now, standing(int(ref[1:]), pending_runs=1))
    for _ in range(400):
        now, _ = settle(now)
        pending = [s.candidate_id for s in now.standings for _ in range(s.pending_runs)]
        if not pending:
            break
        for ref in pending[:slots]:
            score = rng.gauss(truth.get(ref, 1.0), sigma)  # merged ones are as good as the first baseline
            now = finished(now, ref, None if rng.random() < 0.1 else score)
    assert not now.undecided or baseline_is_hopeless(now)
    assert all(s.n + s.failed_runs <= 7 for s in now.standings)
