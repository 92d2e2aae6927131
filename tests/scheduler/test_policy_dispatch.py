"""Who goes next: priorities, the share of repeats, no idle slots, stability, and sentences that say the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.run import Run, RunKind
from scheduler.policy.dispatch import explain_waiting, order_runs, repeats_allowed
from tests.scheduler.policy_kit import BASE as BASELINE_ID
from tests.scheduler.policy_kit import baseline, board, run, standing

BASE, NEW, REPEAT = RunKind.BASELINE, RunKind.NEW, RunKind.REPEAT
SCORES = {2: (0.99,), 3: (0.98,), 4: (0.97, 0.97), 5: (), 6: (0.96, 0.95)}
CANDIDATES = [standing(number, *scores) for number, scores in SCORES.items()]
FIRST = board(baseline(1.0), *CANDIDATES)
LATER = board(baseline(1.0), *CANDIDATES, first=False)


def queue(entries: list[tuple[RunKind, int]], start: int = 0) -> list[Run]:
    return [run(start + i, kind, f"c{number:04d}") for i, (kind, number) in enumerate(entries)]


ENTRIES = st.lists(st.tuples(st.sampled_from(list(RunKind)), st.sampled_from([1, *SCORES])), max_size=14)
QUEUES, BUSY = ENTRIES.map(queue), ENTRIES.map(lambda entries: queue(entries, 100))
BOARDS = st.sampled_from([None, FIRST, LATER])


def kinds(runs: tuple[Run, ...]) -> list[RunKind]:
    return [r.kind for r in runs]


@pytest.mark.parametrize("now", [FIRST, LATER, None], ids=["first", "later", "no board"])
def test_the_baseline_goes_before_repeats_and_repeats_before_ideas(now) -> None:
    queued = [run(1, NEW), run(2, REPEAT), run(3, BASE, BASELINE_ID)]
    assert kinds(order_runs(queued, [], 8, now)) == [BASE, REPEAT, NEW]


def test_a_baseline_that_is_none_any_more_waits_for_everything() -> None:
    queued = queue([(BASE, 5), (NEW, 2), (REPEAT, 3), (BASE, 1)])
    assert [r.candidate_id for r in order_runs(queued, [], 8, LATER)] == [BASELINE_ID, "c0003", "c0002", "c0005"]


def test_of_the_contenders_the_one_with_fewest_runs_goes_first_then_the_best() -> None:
    queued = queue([(REPEAT, number) for number in (4, 6, 2, 3)])
    assert [r.candidate_id for r in order_runs(queued, [], 8, LATER)] == ["c0003", "c0002", "c0006", "c0004"]


def test_a_repeat_that_lost_its_slot_goes_before_other_repeats() -> None:
    queued = [run(1, REPEAT, "c0003"), replace(run(2, REPEAT, "c0004"), attempts=1)]
    assert [r.candidate_id for r in order_runs(queued, [], 8, LATER)] == ["c0004", "c0003"]


@given(QUEUES, BUSY, st.integers(1, 16), BOARDS)
def test_repeats_pass_others_only_within_their_share(queued: list[Run], running: list[Run], slots: int, now) -> None:
    order = order_runs(queued, running, slots, now)
    new = [i for i, r in enumerate(order) if r.kind is NEW]
    ahead = sum(r.kind is REPEAT for r in order[: new[-1]]) if new else 0
    in_flight = sum(r.kind is REPEAT for r in running)
    assert ahead <= max(0, max(1, slots // 2) - in_flight)


@given(QUEUES, BUSY, st.integers(1, 16), BOARDS)
def test_no_run_is_left_out_so_no_slot_idles(queued: list[Run], running: list[Run], slots: int, now) -> None:
    assert sorted(order_runs(queued, running, slots, now), key=lambda r: r.id) == queued


@given(QUEUES, st.integers(1, 16), BOARDS)
def test_equals_keep_the_order_they_were_queued_in(queued: list[Run], slots: int, now) -> None:
    order = order_runs(queued, [], slots, now)
    for kind in (NEW, BASE):
        for candidate in {r.candidate_id for r in queued}:
            same = [r for r in order if (r.kind, r.candidate_id) == (kind, candidate)]
            assert same == sorted(same, key=lambda r: r.id)


@pytest.mark.parametrize(("slots", "allowed"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (16, 8), (17, 8)])
def test_half_of_the_slots_and_at_least_one(slots: int, allowed: int) -> None:
    assert repeats_allowed(slots, None) == repeats_allowed(slots, LATER) == allowed


def test_the_share_is_the_labs_setting() -> None:
    generous = replace(LATER, gates=replace(LATER.gates, max_repeat_share=1.0))
    assert repeats_allowed(8, generous) == 8


def test_a_waiting_run_is_told_why() -> None:
    queued = [run(1, NEW), run(2, NEW), run(3, NEW)]
    busy = [run(8, NEW), run(9, NEW)]
    assert "doctor" in explain_waiting(queued[0], queued, [], 0)
    assert "a slot is free" in explain_waiting(queued[0], queued, busy[:1], 2)
    assert explain_waiting(queued[0], queued, busy, 2) == "it is next: all 2 slots are busy"
    assert explain_waiting(queued[1], queued, busy, 2) == "1 run goes first, and 2 of 2 slots are busy"
    assert explain_waiting(queued[2], queued, busy, 2) == "2 runs go first, and 2 of 2 slots are busy"


def test_a_repeat_beyond_its_share_and_a_former_baseline_are_told_why() -> None:
    queued = queue([(REPEAT, 2), (NEW, 3), (BASE, 5)])
    said = explain_waiting(queued[0], queued, [run(8, REPEAT, "c0003"), run(9, NEW)], 2, LATER)
    assert said.startswith("1 run goes first because repeats have their share of the slots")
    said = explain_waiting(queued[2], queued, [run(8, NEW), run(9, NEW)], 2, LATER)
    assert "no longer the baseline" in said


@given(QUEUES, BUSY, st.integers(0, 6), BOARDS)
def test_every_waiting_run_gets_one_sentence(queued: list[Run], running: list[Run], slots: int, now) -> None:
    for waiting in queued:
        said = explain_waiting(waiting, queued, running, slots, now)
        assert said and "\n" not in said
