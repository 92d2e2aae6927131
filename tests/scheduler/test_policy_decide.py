"""Deciding on whole boards: what is due, in which order, and that it always comes to an end."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import Discard, MeasureBaseline, Promote, Replicate, Retry
from scheduler.domain.lab import Board
from scheduler.policy.decide import baseline_is_hopeless, decide
from tests.scheduler.policy_kit import applied, baseline, board, finished, standing, with_candidate

GOOD, CLOSE, BAD = 0.990, 0.9993, 1.010


def settle(now: Board) -> tuple[Board, list[object]]:
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


def test_of_two_winners_the_better_becomes_the_baseline_and_the_other_is_held_against_it() -> None:
    now, taken = settle(board(baseline(1.0, 1.0, 1.0), standing(2, 0.991), standing(3, 0.985)))
    assert isinstance(taken[0], Promote) and taken[0].candidate_id == "c0003"
    assert now.baseline_id == "c0003"
    assert any(isinstance(d, Discard) and d.candidate_id == "c0002" and d.base_id == "c0003" for d in taken)
    assert MeasureBaseline in [type(d) for d in taken]


def test_a_later_baseline_is_compared_with_from_its_first_run() -> None:
    now = board(baseline(1.0, pending_runs=1), standing(2, BAD), first=False)
    assert isinstance(decide(now), Discard)


def test_a_candidate_without_a_score_is_settled_with_its_failure() -> None:
    decision = decide(board(baseline(1.0, 1.0, 1.0), standing(2, failed_runs=1, failure="oom: too wide")))
    assert isinstance(decision, Discard) and decision.effect is None and "oom" in decision.reason


def test_a_failed_repeat_is_retried_once() -> None:
    contender = standing(2, CLOSE, state=CandidateState.CONTENDER, failed_runs=1, failure="crash")
    now = board(baseline(1.0, 1.0, 1.0), contender)
    assert isinstance(decide(now), Retry)
    now = finished(applied(now, decide(now)), "c0002", None)
    assert isinstance(decide(now), Discard)


def test_nothing_is_judged_while_its_run_is_on_the_way() -> None:
    assert decide(board(baseline(1.0, 1.0, 1.0), standing(2, GOOD, pending_runs=1))) is None


def test_a_baseline_that_cannot_run_stops_the_lab() -> None:
    broken = board(baseline(failed_runs=3, failure="crash"), standing(2, GOOD))
    assert baseline_is_hopeless(broken)
    assert not isinstance(decide(broken), MeasureBaseline | Promote | Replicate)
    assert not baseline_is_hopeless(board(baseline(1.0, failed_runs=3)))


@given(st.lists(st.floats(0.98, 1.02), min_size=1, max_size=8), st.randoms())
def test_the_order_of_submission_does_not_choose_the_winner(scores: list[float], rng: random.Random) -> None:
    candidates = [standing(2 + i, score) for i, score in enumerate(scores)]
    shuffled = rng.sample(candidates, len(candidates))
    first, _ = settle(board(baseline(1.0, 1.0, 1.0), *candidates))
    second, _ = settle(board(baseline(1.0, 1.0, 1.0), *shuffled))
    assert first.baseline.mean == second.baseline.mean


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 8), st.floats(0.0002, 0.003))
def test_every_night_comes_to_an_end(seed: int, slots: int, sigma: float) -> None:
    """Random candidates, noise and crashes: each ends decided, nobody runs more than the rule allows."""
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
            now = finished(now, ref, None if rng.random() < 0.1 else rng.gauss(truth[ref], sigma))
    assert not now.undecided or baseline_is_hopeless(now)
    assert all(s.n + s.failed_runs <= 7 for s in now.standings)
