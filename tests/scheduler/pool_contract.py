"""What every pool must do, whatever executes its runs: one class of tests, run against memory and against Ray.

A subclass gives the fixture `lab`: a pool of at least two slots and the means to steer its runs.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import pytest

from scheduler.domain.errors import PoolProblem
from scheduler.domain.run import Scored, parse_result
from scheduler.domain.slot import Busy, Done, Lost, Pool, Report, RunOrder
from tests.waiting import wait_until

NONCE = "beef" * 8


class PoolLab(Protocol):
    """A pool under test. `endless` runs until `release`, then scores 1.5."""

    pool: Pool

    def scoring(self, run_id: str, val_bpb: float) -> RunOrder: ...

    def endless(self, run_id: str) -> RunOrder: ...

    def dying(self, run_id: str) -> RunOrder: ...

    def release(self) -> None: ...

    def breathe(self) -> None:
        """Let some time pass."""


def make_order(run_id: str, train_py: str, contract_json: str, cache_digest: str, attempt: int = 1) -> RunOrder:
    data = train_py.encode()
    sha256 = hashlib.sha256(data).hexdigest()
    return RunOrder("lab-1", run_id, attempt, data, sha256, contract_json, cache_digest, 7, NONCE)


def report_of(lab: PoolLab, run_id: str) -> Report | None:
    lab.breathe()
    found = [report for report in lab.pool.poll() if report.run_id == run_id]
    assert len(found) <= 1
    return found[0] if found else None


def wait_for(lab: PoolLab, run_id: str, kind: type[Done] | type[Lost] | type[Busy]) -> Report:
    """The run's next report of this kind."""
    seen: list[Report | None] = []

    def is_there() -> bool:
        seen.append(report_of(lab, run_id))
        return isinstance(seen[-1], kind)

    wait_until(is_there, f"{run_id} to be {kind.__name__}")
    report = seen[-1]
    assert report is not None
    return report


class PoolContract:
    @pytest.fixture
    def lab(self) -> PoolLab:
        raise AssertionError("a subclass gives the pool")

    def test_slots_are_distinct_healthy_and_comparable(self, lab: PoolLab) -> None:
        slots = lab.pool.slots()
        assert len(slots) >= 2
        assert len({slot.id for slot in slots}) == len(slots)
        assert [slot.problem for slot in slots] == [""] * len(slots)
        assert len({slot.pool for slot in slots}) == 1
        assert all(slot.pool and slot.cache_digest and slot.boot_id for slot in slots)

    def test_a_run_is_busy_then_done_with_the_judges_own_text(self, lab: PoolLab) -> None:
        slot = lab.pool.slots()[0]
        lab.pool.start(slot.id, lab.endless("r0001"))
        busy = wait_for(lab, "r0001", Busy)
        assert (busy.slot_id, busy.attempt) == (slot.id, 1)
        lab.release()
        done = wait_for(lab, "r0001", Done)
        assert isinstance(done, Done)
        verdict = parse_result(done.result_text).verdict
        assert isinstance(verdict, Scored) and verdict.val_bpb == 1.5

    def test_a_report_is_repeated_until_it_is_acknowledged(self, lab: PoolLab) -> None:
        slot = lab.pool.slots()[0]
        lab.pool.start(slot.id, lab.scoring("r0001", 1.9))
        first = wait_for(lab, "r0001", Done)
        assert report_of(lab, "r0001") == first
        lab.pool.acknowledge(slot.id, "r0001", 1)
        assert report_of(lab, "r0001") is None
        lab.pool.acknowledge(slot.id, "r0001", 1)

    def test_starting_the_same_attempt_again_changes_nothing(self, lab: PoolLab) -> None:
        slot = lab.pool.slots()[0]
        order = lab.scoring("r0001", 1.9)
        lab.pool.start(slot.id, order)
        lab.pool.start(slot.id, order)
        first = wait_for(lab, "r0001", Done)
        lab.pool.start(slot.id, order)
        assert report_of(lab, "r0001") == first
        lab.pool.acknowledge(slot.id, "r0001", 1)
        lab.pool.start(slot.id, order)
        assert report_of(lab, "r0001") is None

    def test_two_slots_run_at_once_and_one_slot_does_not(self, lab: PoolLab) -> None:
        one, two = lab.pool.slots()[:2]
        lab.pool.start(one.id, lab.endless("r0001"))
        lab.pool.start(two.id, lab.endless("r0002"))
        wait_for(lab, "r0001", Busy)
        wait_for(lab, "r0002", Busy)
        with pytest.raises(PoolProblem, match="going on"):
            lab.pool.start(one.id, lab.scoring("r0003", 1.9))
        assert report_of(lab, "r0003") is None

    def test_a_slot_is_free_as_soon_as_its_run_is_done(self, lab: PoolLab) -> None:
        slot = lab.pool.slots()[0]
        lab.pool.start(slot.id, lab.scoring("r0001", 1.9))
        wait_for(lab, "r0001", Done)
        lab.pool.start(slot.id, lab.scoring("r0002", 1.8))
        wait_for(lab, "r0002", Done)

    def test_a_judge_that_dies_without_a_result_is_lost(self, lab: PoolLab) -> None:
        slot = lab.pool.slots()[0]
        lab.pool.start(slot.id, lab.dying("r0001"))
        lost = wait_for(lab, "r0001", Lost)
        assert isinstance(lost, Lost) and lost.reason
        lab.pool.acknowledge(slot.id, "r0001", 1)
        assert report_of(lab, "r0001") is None

    def test_a_stopped_run_is_dead_when_stop_returns(self, lab: PoolLab) -> None:
        slot = lab.pool.slots()[0]
        lab.pool.start(slot.id, lab.endless("r0001"))
        wait_for(lab, "r0001", Busy)
        lab.pool.stop(slot.id, "r0001", 1)
        assert isinstance(report_of(lab, "r0001"), Lost)
        lab.pool.acknowledge(slot.id, "r0001", 1)
        lab.pool.start(slot.id, lab.scoring("r0002", 1.8))
        wait_for(lab, "r0002", Done)

    def test_stopping_what_is_done_or_unknown_is_no_error(self, lab: PoolLab) -> None:
        slot = lab.pool.slots()[0]
        lab.pool.stop(slot.id, "r0099", 1)
        lab.pool.start(slot.id, lab.scoring("r0001", 1.9))
        done = wait_for(lab, "r0001", Done)
        lab.pool.stop(slot.id, "r0001", 1)
        assert report_of(lab, "r0001") == done

    def test_a_living_run_cannot_be_acknowledged_away(self, lab: PoolLab) -> None:
        slot = lab.pool.slots()[0]
        lab.pool.start(slot.id, lab.endless("r0001"))
        wait_for(lab, "r0001", Busy)
        lab.pool.acknowledge(slot.id, "r0001", 1)
        assert isinstance(report_of(lab, "r0001"), Busy)

    def test_an_unknown_slot_and_a_damaged_train_py_are_refused(self, lab: PoolLab) -> None:
        order = lab.scoring("r0001", 1.9)
        with pytest.raises(PoolProblem, match="no slot"):
            lab.pool.start("nowhere/cpu9", order)
        damaged = RunOrder(
            order.lab_id, order.run_id, 1, order.train_py + b"\n", order.train_sha256, order.contract_json,
            order.cache_digest, order.seed, order.nonce,
        )  # fmt: skip
        with pytest.raises(PoolProblem, match="damaged"):
            lab.pool.start(lab.pool.slots()[0].id, damaged)
        assert report_of(lab, "r0001") is None
