"""The pool in memory: the common contract, and the mishaps it can be asked for."""

from __future__ import annotations

import pytest

from scheduler.domain.errors import PoolProblem
from scheduler.domain.run import Failed, parse_result
from scheduler.domain.slot import Busy, Done, Lost, RunOrder, Slot
from tests.scheduler.memory_pool import (
    Finishes,
    Hangs,
    MemoryPool,
    Outcome,
    Vanishes,
    VirtualClock,
    failed,
    memory_slots,
    scored,
)
from tests.scheduler.pool_contract import PoolContract, make_order


class MemoryLab:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.released = False
        self.pool = MemoryPool(2, self._outcome, self.clock)

    def scoring(self, run_id: str, val_bpb: float) -> RunOrder:
        return make_order(run_id, f"score {val_bpb}", "{}", "cache-1")

    def endless(self, run_id: str) -> RunOrder:
        return make_order(run_id, "hang", "{}", "cache-1")

    def dying(self, run_id: str) -> RunOrder:
        return make_order(run_id, "die", "{}", "cache-1")

    def release(self) -> None:
        self.clock.advance(3600.0)

    def breathe(self) -> None:
        self.clock.advance(0.6)

    def _outcome(self, order: RunOrder) -> Outcome:
        verb, _, rest = order.train_py.decode().partition(" ")
        if verb == "score":
            return scored(float(rest))
        return scored(1.5, after_s=3600.0) if verb == "hang" else Vanishes()


class TestMemoryPool(PoolContract):
    @pytest.fixture
    def lab(self) -> MemoryLab:
        return MemoryLab()


def order(run_id: str = "r0001") -> RunOrder:
    return make_order(run_id, "any", "{}", "cache-1")


def test_nothing_happens_until_the_clock_moves() -> None:
    clock = VirtualClock()
    pool = MemoryPool(1, lambda _: scored(1.9, after_s=20.0), clock)
    pool.start("memory/cpu0", order())
    clock.advance(19.9)
    [busy] = pool.poll()
    assert isinstance(busy, Busy) and busy.progress.elapsed_s == pytest.approx(19.9)
    clock.advance(0.1)
    assert isinstance(pool.poll()[0], Done)


def test_outcomes_follow_the_order_and_read_as_results() -> None:
    outcomes: dict[str, Outcome] = {"r0001": failed("crash", "boom"), "r0002": Hangs()}
    clock = VirtualClock()
    pool = MemoryPool(2, lambda asked: outcomes[asked.run_id], clock)
    pool.start("memory/cpu0", order("r0001"))
    pool.start("memory/cpu1", order("r0002"))
    clock.advance(1e6)
    done, busy = pool.poll()
    assert isinstance(done, Done) and parse_result(done.result_text).verdict == Failed("crash", "boom")
    assert isinstance(busy, Busy)


def test_a_lost_slot_loses_its_runs_until_they_are_acknowledged() -> None:
    pool = MemoryPool(2, lambda _: Hangs())
    pool.start("memory/cpu0", order())
    pool.lose_slot("memory/cpu0")
    assert [slot.id for slot in pool.slots()] == ["memory/cpu1"]
    assert pool.poll() == (Lost("memory/cpu0", "r0001", 1, "the node is gone", from_outside=True),)
    with pytest.raises(PoolProblem, match="no slot"):
        pool.start("memory/cpu0", order("r0002"))
    pool.acknowledge("memory/cpu0", "r0001", 1)
    assert pool.poll() == ()


def test_a_node_that_comes_back_is_a_slot_with_another_boot_id() -> None:
    pool = MemoryPool(1)
    pool.lose_slot("memory/cpu0")
    pool.add_slot(Slot("memory/cpu0", "memory", "boot-2", "cpu", "memory", "memory", "cache-1"))
    assert [slot.boot_id for slot in pool.slots()] == ["boot-2"]


def test_a_broken_slot_takes_nothing_until_it_is_healed() -> None:
    pool = MemoryPool(1)
    pool.break_slot("memory/cpu0", "the disk is full")
    assert pool.slots()[0].problem == "the disk is full"
    with pytest.raises(PoolProblem, match="the disk is full"):
        pool.start("memory/cpu0", order())
    pool.break_slot("memory/cpu0", "")
    pool.start("memory/cpu0", order())
    assert [asked.run_id for asked in pool.started] == ["r0001"]


def test_duplicates_and_late_reports_come_once_each() -> None:
    pool = MemoryPool(1)
    late = Done("memory/cpu0", "r0042", 1, "{}", "")
    pool.say_again(late)
    assert pool.poll() == (late,)
    assert pool.poll() == ()


def test_closing_may_stop_what_runs() -> None:
    pool = MemoryPool(memory_slots(2, device="cuda"), lambda _: Finishes("{}", after_s=10.0))
    pool.start("memory/gpu1", order())
    pool.close(stop_runs=False)
    assert pool.stopped == [] and pool.closed
    pool.close(stop_runs=True)
    assert pool.stopped == ["r0001.1"]
