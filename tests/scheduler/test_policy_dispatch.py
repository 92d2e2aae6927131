"""Who goes next: priorities, the share of repeats, no idle slots, stability, and sentences that say the truth."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.candidate import Occasion
from scheduler.domain.run import Finished, Queued, Result, Run, RunKind, Running
from scheduler.policy.dispatch import (
    explain_waiting,
    free_soon,
    order_runs,
    pair_claims,
    pair_runs,
    repeats_allowed,
    slots_had,
)
from tests.scheduler.policy_kit import BASE as BASELINE_ID
from tests.scheduler.policy_kit import baseline, board, run, standing

BASE, NEW, REPEAT, UNION, CLAIM = RunKind.BASELINE, RunKind.NEW, RunKind.REPEAT, RunKind.UNION, RunKind.CLAIM
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


def test_a_claim_waits_for_everything_and_a_union_is_a_repeat() -> None:
    queued = queue([(CLAIM, 1), (BASE, 5), (NEW, 2), (UNION, 3), (REPEAT, 4), (BASE, 1)])
    order = order_runs(queued, [], 2, LATER)
    assert [(r.kind, r.candidate_id) for r in order[:3]] == [(BASE, "c0001"), (UNION, "c0003"), (NEW, "c0002")]
    assert kinds(order[3:]) == [REPEAT, BASE, CLAIM]


def test_a_union_without_a_run_is_the_neediest_of_the_contenders() -> None:
    queued = queue([(REPEAT, 2), (REPEAT, 4), (UNION, 5)])
    assert [r.candidate_id for r in order_runs(queued, [], 8, LATER)] == ["c0005", "c0002", "c0004"]


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
    ahead = sum(r.kind in (REPEAT, UNION) for r in order[: new[-1]]) if new else 0
    in_flight = sum(r.kind in (REPEAT, UNION) for r in running)
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


AGO = Occasion(0.0, "a", 1)
MEASURED = board(baseline(1.0), standing(2, 0.99, occasions=(AGO,)), standing(3), first=False)


def on(slot: str, number: int, candidate: str, began: float = 0.0) -> Run:
    return replace(run(number, candidate=candidate), state=Running(1, slot, "boot", began))


def paired(queued: list[Run], free: str, usable: str = "abc", running=(), soon: str = "") -> list[tuple[str, str]]:
    """Slots are letters."""
    had = slots_had(queued, running, MEASURED)
    return [(placed.id, slot) for placed, slot in pair_runs(queued, list(free), list(usable), {}, had, set(soon))]


def test_a_repeat_goes_to_a_slot_that_has_not_had_its_candidate() -> None:
    repeat, idea = run(1, REPEAT, "c0002"), run(2, NEW, "c0003")
    assert paired([repeat], "ab") == [("r0001", "b")]
    assert paired([repeat, idea], "ab") == [("r0001", "b"), ("r0002", "a")]
    assert paired([repeat], "abc", running=[on("b", 9, "c0002")]) == [("r0001", "c")]
    assert paired([idea], "ab") == [("r0002", "a")]


def test_it_lets_others_pass_for_a_slot_that_is_free_soon_and_no_slot_idles_for_it() -> None:
    repeat, idea = run(1, REPEAT, "c0002"), run(2, NEW, "c0003")
    assert paired([repeat, idea], "a", soon="b") == [("r0002", "a")]
    assert paired([repeat], "a", soon="b") == [("r0001", "a")]  # else it would idle
    assert paired([repeat, idea], "a", soon="") == [("r0001", "a")]  # the others are busy for long
    assert paired([repeat, idea], "a", usable="a", soon="b") == [("r0001", "a")]  # b is not the lab's any more
    assert paired([repeat, idea], "b", soon="c") == [("r0001", "b")]  # no better than this one


def test_of_slots_that_all_had_it_the_one_that_had_fewest_is_taken() -> None:
    base, idea = run(1, BASE, "c0001"), run(2, NEW, "c0003")
    spread = [on("a", 8, "c0001"), on("b", 9, "c0001"), on("a", 7, "c0001")]
    assert paired([base], "ab", usable="ab", running=spread) == [("r0001", "b")]
    assert paired([base, idea], "a", running=spread, soon="b") == [("r0001", "a")]  # all wait for the baseline


def test_a_slot_is_free_soon_within_a_tenth_of_a_run_and_not_for_longer_than_that_overdue() -> None:
    running = [on(slot, n, "c0003", began) for n, (slot, began) in enumerate([("a", 0.0), ("b", 15.0), ("c", -15.0)])]
    assert free_soon(running, 95.0, 100.0) == {"a", "c"}
    assert free_soon(running, 110.0, 100.0) == {"a", "b"}
    assert free_soon(running, 111.0, 100.0) == {"b"}
    assert free_soon(running, 95.0, None) == free_soon([], 95.0, 100.0) == frozenset()


@given(QUEUES, st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")), BUSY, BOARDS)
def test_whatever_was_where_every_free_slot_gets_a_run_and_none_two(
    queued: list[Run], free: set[str], soon: set[str], busy: list[Run], now
) -> None:
    running = [replace(one, state=Running(1, "abcdef"[n % 6], "b", 0.0)) for n, one in enumerate(busy)]
    had = slots_had(queued, running, now or FIRST)
    pairs = pair_runs(queued, sorted(free), list("abcdef"), {}, had, soon - free)
    assert len(pairs) == min(len(free), len(queued))
    assert len({slot for _, slot in pairs}) == len({placed.id for placed, _ in pairs}) == len(pairs)
    assert {slot for _, slot in pairs} <= free


def test_a_waiting_run_is_reported_why() -> None:
    queued = [run(1, NEW), run(2, NEW), run(3, NEW)]
    busy = [run(8, NEW), run(9, NEW)]
    assert "arsched watch --once" in explain_waiting(queued[0], queued, [], 0)
    assert "a slot is free" in explain_waiting(queued[0], queued, busy[:1], 2)
    assert explain_waiting(queued[0], queued, busy, 2) == "it is next: all 2 slots are busy"
    assert explain_waiting(queued[1], queued, busy, 2) == "1 run goes first, and 2 of 2 slots are busy"
    assert explain_waiting(queued[2], queued, busy, 2) == "2 runs go first, and 2 of 2 slots are busy"


def test_a_repeat_beyond_its_share_and_a_former_baseline_are_reported_why() -> None:
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


RESULT = cast("Result", None)  # no one looks at it


class Claiming:
    """A claim's runs on slots that end in any order and may vanish with what runs on them."""

    def __init__(self, each: int, slots: int) -> None:
        self.queued = queue([(CLAIM, 1)] * each + [(CLAIM, 6)] * each)
        self.begun: dict[str, Run] = {}
        self.slots, self.busy = [f"s{n}" for n in range(slots)], dict[str, Run]()
        self.history: list[tuple[str, str]] = []

    def place(self) -> None:
        free = [slot for slot in self.slots if slot not in self.busy]
        for placed, slot in pair_claims(self.queued, free, tuple(self.begun.values())):
            assert slot not in self.busy
            self.queued.remove(placed)
            self.busy[slot] = self.begun[placed.id] = replace(placed, state=Running(1, slot, "boot", 0.0))
            self.history.append((slot, placed.candidate_id))

    def end(self, slot: str, lost: bool) -> None:
        ended = self.busy.pop(slot)
        self.begun[ended.id] = replace(ended, state=Finished(1, slot, 0.0, 1.0, RESULT))
        if lost:
            self.slots.remove(slot)
            self.queued.insert(0, replace(self.begun.pop(ended.id), state=Queued(0.0)))
            self.history.remove((slot, ended.candidate_id))

    def counts(self, slot: str | None = None) -> list[int]:
        measured = [candidate for place, candidate in self.history if slot in (None, place)]
        return sorted((measured.count("c0001"), measured.count("c0006")))


@given(st.integers(1, 8), st.integers(1, 10), st.randoms())
def test_every_slot_of_a_claim_measures_both_baselines_by_turns(each: int, slots: int, rng: random.Random) -> None:
    claim = Claiming(each, slots)
    claim.place()
    assert len(claim.busy) == min(each, slots)
    while claim.busy:
        for slot in claim.slots:
            fewer, more = claim.counts(slot)
            assert more - fewer <= 1
        claim.end(rng.choice(sorted(claim.busy)), lost=False)
        claim.place()
    assert not claim.queued and claim.counts() == [each, each]
    used = {slot for slot, _ in claim.history}
    assert len(used) == min(each, slots)
    assert all(claim.counts(slot)[0] >= 1 for slot in used)


@given(st.integers(1, 6), st.integers(2, 8), st.randoms(), st.integers(1, 7))
def test_a_claim_is_measured_to_the_end_while_one_slot_is_left(each: int, slots: int, rng: random.Random, lost) -> None:
    claim, to_lose = Claiming(each, slots), min(lost, slots - 1)
    claim.place()
    while claim.busy:
        losing = to_lose > 0 and rng.random() < 0.5
        to_lose -= losing
        claim.end(rng.choice(sorted(claim.busy)), lost=losing)
        claim.place()
    assert not claim.queued and claim.counts() == [each, each]


def test_a_claim_without_a_free_slot_or_a_queued_run_places_nothing() -> None:
    assert pair_claims([], ["a"], []) == pair_claims([run(1, CLAIM)], [], []) == ()
    assert [slot for _, slot in pair_claims([run(1, CLAIM)], ["a", "b"], [])] == ["a"]
