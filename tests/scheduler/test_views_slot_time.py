"""Where the slots' time went: against an example worked out by hand, and against what can never be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.views.slots import IDLE_S, SlotInterval, slot_time


def interval(slot: str, start: float, end: float, *, queued: float = 0.0, judged: float | None = None) -> SlotInterval:
    judged_s = end - start if judged is None else judged
    return SlotInterval(f"r{start}", slot, queued, start, end, judged_s, budget_s=judged_s / 2)


def test_the_example_worked_out_by_hand() -> None:
    """Slot a: judges of 9 and 18 s in intervals of 10 and 20 s, 2 s between. Slot b: 24 s in 25 s, from second 5 on."""
    time = slot_time(
        [interval("a", 0, 10, judged=9), interval("a", 12, 32, judged=18), interval("b", 5, 30, judged=24)]
    )
    assert (time.runs, time.wall_s, time.busy_s, time.ideal_s) == (3, 32, 51, 25.5)
    assert time.utilisation == pytest.approx(51 / 64)
    assert time.budget_share == pytest.approx(25.5 / 64)
    assert [use.slot for use in time.slots] == ["a", "b"]
    assert [use.utilisation for use in time.slots] == pytest.approx([27 / 32, 24 / 32])
    assert (time.gap_median_s, time.gap_max_s) == (3.0, 3.0)  # 1 s to fetch the first result, 2 s to the next start
    assert time.slots[1].gap_median_s is None


def test_a_gap_begins_when_the_next_run_was_queued() -> None:
    time = slot_time([interval("a", 0, 10), interval("a", 50, 60, queued=49.5)])
    assert time.gap_max_s == 0.5


def test_time_in_which_the_queue_was_not_run_is_no_slot_time() -> None:
    later = 10 + IDLE_S + 3600
    time = slot_time([interval("a", 0, 10), interval("a", later, later + 10)])
    assert (time.wall_s, time.utilisation, time.gap_max_s) == (20, 1.0, None)


def test_another_slot_keeps_the_stretch_going() -> None:
    time = slot_time([interval("a", 0, 10), interval("b", 0, 300), interval("a", 200, 300)])
    assert (time.wall_s, time.gap_max_s) == (300, 190)


def test_no_run_no_time() -> None:
    time = slot_time([])
    assert (time.runs, time.wall_s, time.utilisation, time.gap_max_s, time.slots) == (0, 0, 0, None, ())


def test_a_clock_that_went_backwards_makes_no_negative_time() -> None:
    time = slot_time([SlotInterval("r1", "a", 0, 100, 90, 0.0, 0.0), interval("a", 95, 105)])
    assert time.wall_s >= 0 and time.busy_s >= 0 and (time.gap_max_s or 0) >= 0


@st.composite
def intervals(draw: st.DrawFn) -> list[SlotInterval]:
    """Runs that do not overlap on their slot."""
    found = []
    for slot in "abc"[: draw(st.integers(1, 3))]:
        at = 0.0
        for pause, length in draw(st.lists(st.tuples(st.floats(0, 200), st.floats(0.5, 100)), max_size=6)):
            judged = draw(st.floats(0, 1)) * length
            found.append(interval(slot, at + pause, at + pause + length, judged=judged))
            at += pause + length
    return found


@given(intervals(), st.randoms(use_true_random=False))
def test_shares_are_shares_whatever_the_order(made: list[SlotInterval], shuffler: random.Random) -> None:
    time = slot_time(made)
    assert 0 <= time.budget_share <= time.utilisation <= 1 + 1e-9
    assert time.ideal_s <= time.wall_s + 1e-6
    assert all(0 <= use.utilisation <= 1 + 1e-9 for use in time.slots)
    shuffled = list(made)
    shuffler.shuffle(shuffled)
    again = slot_time(shuffled)
    assert (again.wall_s, again.gap_max_s) == pytest.approx((time.wall_s, time.gap_max_s))
