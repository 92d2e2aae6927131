"""What slots, judges and nodes may do while a queue is run: die, lie, repeat themselves, vanish, come back."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from scheduler.actions.candidate import cancel
from scheduler.domain.candidate import CandidateState
from scheduler.domain.errors import PoolProblem
from scheduler.domain.run import Cancelled, Finished, Infra, Running
from scheduler.domain.slot import IN_USE, Busy, Done, Progress, RunOrder
from scheduler.queue.runtime import StopReason
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab, as_the_source_says
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.memory_pool import Finishes, Outcome, memory_slots, scored


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    return PlayedLab(tmp_path)


def test_a_judge_that_keeps_dying_on_one_slot_is_tried_three_times(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, slots=1)
    played.submit("cursed", 'DIES = "out of memory killer"\n')
    played.run()
    (run,) = played.space.ledger.runs.of_candidate("c0002")
    assert isinstance(run.state, Finished) and isinstance(run.state.result.verdict, Infra)
    assert run.attempts == 3
    assert played.state("cursed") is CandidateState.FAILED
    assert played.screen.said("given up")


def test_a_dirty_slot_takes_no_run_until_it_is_clean(played: PlayedLab) -> None:
    others, dirty = [slot.id for slot in played.pool.slots()][:1], played.pool.slots()[1].id
    played.pool.break_slot(dirty, "dirty: GPU 0 is in use by process 42 (blender)")
    played.submit("idea", "SCORE = 2.0\n")
    played.run()
    assert {state.slot_id for state in played.finished()} == set(others)
    played.pool.break_slot(dirty, "")
    played.submit("another", "SCORE = 2.1\n")
    played.submit("third", "SCORE = 2.2\n")
    played.run()
    assert dirty in {state.slot_id for state in played.finished()}
    for slot in played.pool.slots():
        played.pool.break_slot(slot.id, "dirty: GPU 0 is in use by process 42 (blender)")
    played.submit("last", "SCORE = 2.3\n")
    with pytest.raises(PoolProblem, match="blender") as problem:
        played.run()
    assert "nvidia-smi" in problem.value.hint and "prepare" not in problem.value.hint


def test_an_infra_verdict_is_retried_and_the_next_result_counts(tmp_path: Path) -> None:
    def flaky(order: RunOrder) -> Outcome:
        if order.attempt == 1 and order.run_id == "r0001":
            return Finishes(json.dumps({"format": 1, "status": "infra: attention", "reason": "fell back"}))
        return as_the_source_says(order)

    played = PlayedLab(tmp_path, outcome=flaky)
    played.run()
    assert [run.attempts for run in played.space.ledger.runs.list("t")] == [2, 1, 1]
    assert all(not isinstance(state.result.verdict, Infra) for state in played.finished())


@pytest.mark.parametrize(
    "lie",
    [
        {"seed": 99},
        {"digests": {"train_py": "f" * 64}},
        {"digests": {"cache": "other"}},
        {"digests": {"contract": "x"}},
    ],
)
def test_a_result_about_something_else_never_counts(tmp_path: Path, lie: dict[str, object]) -> None:
    def lying(order: RunOrder) -> Outcome:
        if order.attempt == 1:
            return Finishes(json.dumps({"format": 1, "status": "ok", "val_bpb": 0.1, **lie}))
        return as_the_source_says(order)

    played = PlayedLab(tmp_path, outcome=lying)
    played.run()
    assert {run.attempts for run in played.space.ledger.runs.list("t")} == {2}
    assert played.space.ledger.board("t").baseline.mean == pytest.approx(1.9)


def test_a_report_said_twice_and_one_that_comes_late_change_nothing(played: PlayedLab) -> None:
    played.submit("idea", "SCORE = 2.0\n")
    late = Done("memory/cpu0", "r0001", 1, scored(0.5).result_text, "")  # type: ignore[union-attr]
    played.each_round = lambda: played.pool.say_again(late)
    played.run()
    scores = played.space.ledger.board("t").baseline.scores
    assert len(scores) == 3
    assert not broken_invariants(played.space.paths.ledger)


def test_a_report_of_a_run_no_one_knows_is_forgotten(played: PlayedLab) -> None:
    played.pool.say_again(Done("memory/cpu0", "r0999", 1, "{}", ""))
    played.run()
    assert len(played.finished()) == 3


def test_an_attempt_without_the_lease_is_stopped(played: PlayedLab) -> None:
    stranger = Busy("memory/cpu1", "r0001", 7, Progress())
    played.pool.say_again(stranger)
    stopped: list[tuple[str, str, int]] = []
    stop = played.pool.stop
    played.pool.stop = lambda *who: (stopped.append(who), stop(*who))[1]  # type: ignore[method-assign]
    played.run()
    assert stopped == [("memory/cpu1", "r0001", 7)]


def test_a_lost_node_gives_its_run_back_and_a_new_node_takes_it(played: PlayedLab) -> None:
    def lose_once() -> None:
        if played.clock() > 1005 and "memory/cpu1" in {slot.id for slot in played.pool.slots()}:
            played.pool.lose_slot("memory/cpu1")

    played.each_round = lose_once
    played.run()
    assert sorted(run.attempts for run in played.space.ledger.runs.list("t")) == [1, 1, 2]
    assert len(played.space.ledger.board("t").baseline.scores) == 3


@pytest.mark.parametrize(("cluster", "outcome"), [(True, "lost"), (False, "stopped")])
def test_a_restarted_node_that_forgot_its_run_gives_it_back(played: PlayedLab, cluster: bool, outcome: str) -> None:
    """On a cluster that counts as an attempt; where slots end with their scheduler it is no one's fault."""
    played.outlives_us = cluster
    (run, *_) = played.space.ledger.runs.queued("t")
    slot = played.pool.slots()[0]
    assert played.space.ledger.runs.lease(run.id, replace(slot, boot_id="boot-0"), expires_at=10**9) == 1
    played.run()
    assert played.space.ledger.runs.attempts(run.id)[0].outcome == outcome
    assert len(played.space.ledger.board("t").baseline.scores) == 3


def test_a_lease_that_was_never_begun_is_queued_again_and_not_held_against_the_run(played: PlayedLab) -> None:
    (run, *_) = played.space.ledger.runs.queued("t")
    for _ in range(3):  # a driver that dies between lease and start, again and again
        attempt = played.space.ledger.runs.lease(run.id, played.pool.slots()[0], expires_at=10**9)
        assert attempt is not None
        played.space.ledger.runs.requeue(run.id, attempt, "never began", counts=False)
    assert played.space.ledger.runs.lease(run.id, played.pool.slots()[0], expires_at=10**9) == 4
    played.run()
    assert played.space.ledger.runs.get(run.id, "t").attempts == 5
    assert len(played.space.ledger.board("t").baseline.scores) == 3


def test_a_lease_on_a_slot_that_is_gone_is_waited_for_until_it_is_over(played: PlayedLab) -> None:
    (run, *_) = played.space.ledger.runs.queued("t")
    elsewhere = replace(played.pool.slots()[0], id="far/cpu0", node="far")
    assert played.space.ledger.runs.lease(run.id, elsewhere, expires_at=1055.0) == 1
    played.run()
    second = played.space.ledger.runs.attempts(run.id)[1]
    assert second.started_at >= 1055.0


def test_leases_are_renewed_while_their_slot_answers(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, outcome=lambda order: scored(1.9, after_s=500.0))
    played.run()
    assert {run.attempts for run in played.space.ledger.runs.list("t")} == {1}


def test_a_cancelled_candidate_is_stopped_while_it_runs(played: PlayedLab) -> None:
    played.submit("endless", "HANG = True\n")

    def cancel_it() -> None:
        if isinstance(played.space.ledger.runs.of_candidate("c0002")[0].state, Running):
            cancel(played.space, "endless")

    played.each_round = cancel_it
    assert played.run() is StopReason.DONE
    (run,) = played.space.ledger.runs.of_candidate("c0002")
    assert isinstance(run.state, Cancelled)
    assert played.pool.stopped == [f"{run.id}.1"]


def test_a_slot_that_refuses_is_left_alone_for_a_while(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    start = played.pool.start
    refused: list[float] = []

    def refuse(slot_id: str, order: RunOrder) -> None:
        if slot_id == "memory/cpu0" and len(refused) < 4:
            refused.append(played.clock())
            raise PoolProblem("memory/cpu0 takes no run: the disk is full")
        start(slot_id, order)

    played.pool.start = refuse  # type: ignore[method-assign]
    for number in range(6):
        played.submit(f"idea-{number}", f"SCORE = {2 + number / 100}\n")
    played.run()
    pauses = [later - earlier for earlier, later in pairwise(refused)]
    assert pauses == sorted(pauses) and pauses[0] >= 5 and pauses[-1] >= 20
    assert len(played.finished()) == 9


def test_slots_of_another_kind_are_named_and_left_out(tmp_path: Path) -> None:
    ours, others = memory_slots(2, pool="gpu-a"), memory_slots(1, node="other", pool="gpu-b")
    played = PlayedLab(tmp_path, slots=[*others, *ours])
    played.run()
    assert {run.pool for run in played.space.ledger.runs.list("t")} == {"gpu-a"}
    assert len(played.screen.said("other/cpu0 takes no run: its scores would not compare: it is gpu-b")) == 1


def test_a_lab_stays_on_the_pool_its_baseline_was_measured_on(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, slots=memory_slots(1, pool="gpu-a"))
    played.run()
    for slot in memory_slots(3, node="new", pool="gpu-b"):
        played.pool.add_slot(slot)
    played.submit("idea", "SCORE = 2.0\n")
    played.run()
    assert {run.pool for run in played.space.ledger.runs.list("t")} == {"gpu-a"}


def test_no_slot_and_slots_with_another_cache_are_said_at_once_with_what_is_missing(tmp_path: Path) -> None:
    none = PlayedLab(tmp_path / "none", slots=[])
    with pytest.raises(PoolProblem, match="needs a core"):
        none.run()
    other = PlayedLab(tmp_path / "other", slots=[replace(memory_slots(1)[0], cache_digest="cache-2")])
    with pytest.raises(PoolProblem, match="cache is cache-2, the lab's is cache-1") as raised:
        other.run()
    assert "arsched prepare" in raised.value.hint
    assert len(other.space.ledger.runs.queued("t")) == 3
    assert other.pool.closed


def test_slots_that_another_lab_uses_are_waited_for_as_long_as_it_takes(tmp_path: Path) -> None:
    problem = f"{IN_USE} (lab fast, judge 4711)"
    played = PlayedLab(tmp_path, slots=[replace(slot, problem=problem) for slot in memory_slots(2)])

    def free_one() -> None:
        if played.clock() > 9000:
            played.pool.add_slot(memory_slots(1)[0])

    played.each_round = free_one
    assert played.run() is StopReason.DONE
    assert not played.space.ledger.runs.queued("t") and played.clock() > 9000
    (note,) = played.screen.said("waiting until a slot is free")
    assert "lab fast, judge 4711" in note


def test_the_hint_names_a_contract_that_is_a_file_by_its_file(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, slots=[replace(memory_slots(1)[0], cache_digest="cache-2")])
    with pytest.raises(PoolProblem) as raised:
        played.run()
    assert f"arsched prepare --contract {played.space.paths.contract}; then" in raised.value.hint


def test_slots_that_break_in_the_middle_are_waited_for_but_not_without_end(played: PlayedLab) -> None:
    def break_all() -> None:
        for slot in played.pool.slots():
            played.pool.break_slot(slot.id, "the disk is full")

    played.each_round = break_all
    begun_at = played.clock()
    with pytest.raises(PoolProblem, match="2 × the disk is full"):
        played.run()
    assert played.clock() - begun_at > 600
    assert played.screen.said("waiting for one to come back")
