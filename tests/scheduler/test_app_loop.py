"""The loop: every candidate comes to one end, whatever slots, judges and nodes do meanwhile."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from scheduler.actions.cancel import cancel
from scheduler.domain.candidate import CandidateState
from scheduler.domain.errors import LabProblem, PoolProblem
from scheduler.domain.result import Infra
from scheduler.domain.run import Cancelled, Finished, Queued, RunKind, Running
from scheduler.domain.slot import Busy, Done, Progress, RunOrder
from scheduler.queue.ending import Ending
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import BASELINE, RUN_S, Night, as_the_source_says
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.memory_pool import Finishes, Outcome, memory_slots, scored


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def finished(night: Night) -> list[Finished]:
    return [run.state for run in night.space.ledger.runs.list("t") if isinstance(run.state, Finished)]


def test_a_night_ends_with_every_candidate_decided_and_the_best_promoted(night: Night) -> None:
    night.submit("worse", "SCORE = 2.0\n")
    night.submit("better", "SCORE = 1.7\n")
    night.submit("broken", 'STATUS = "crash"\n')
    assert night.run() is Ending.DONE
    assert night.state("better") is CandidateState.BASELINE
    assert night.state("baseline") is CandidateState.PROMOTED
    assert night.state("worse") is CandidateState.DISCARDED
    assert night.state("broken") is CandidateState.FAILED
    assert not broken_invariants(night.space.paths.ledger)
    assert night.pool.closed and not night.space.paths.live.exists()
    assert len(night.pool.started) == len(night.space.ledger.runs.list("t"))


def test_a_promotion_is_one_commit_on_the_branch_that_changes_train_py_alone(night: Night) -> None:
    night.submit("better", "SCORE = 1.7\n", title="a better idea")
    night.run()
    root, branch = night.space.repo.root, night.space.lab.branch
    assert git(root, "show", f"{branch}:train.py") == "SCORE = 1.7\n"
    assert git(root, "diff", "--name-only", f"{branch}~1", branch).split() == ["train.py"]
    assert git(root, "rev-parse", f"{branch}~1").strip() == night.candidate("baseline").commit
    message = git(root, "log", "-1", "--format=%B", branch)
    for trailer in ("Candidate: c0002", "Val-bpb: 1.7", "Effect: -0.2", "Error: ", "Runs: 1 vs 3"):
        assert trailer in message
    assert message.startswith("a better idea (c0002)")


def test_results_and_logs_are_kept_beside_the_ledger(night: Night) -> None:
    night.run()
    for run in night.space.ledger.runs.list("t"):
        assert night.space.paths.log(run.id, 1).read_text() == f"log of {run.id}.1\n"
        assert json.loads(night.space.paths.result(run.id, 1).read_text())["seed"] == run.seed


def test_both_slots_are_busy_all_the_time_and_the_next_run_starts_in_the_round_of_the_last_result(night: Night) -> None:
    for number in range(7):
        night.submit(f"idea-{number}", f"SCORE = {2.0 + number / 100}\n")
    begun_at = night.clock()
    night.run()
    runs = night.space.ledger.runs.list("t")
    assert len(runs) == 10
    assert night.clock() - begun_at <= (RUN_S + 2) * 10 / 2  # a round is a second


def test_seeds_are_fresh_and_orders_hold_the_candidates_own_bytes(night: Night) -> None:
    night.submit("idea", "SCORE = 2.0\n")
    night.run()
    orders = night.pool.started
    assert len({order.seed for order in orders}) == len(orders)
    assert {order.train_py for order in orders} == {BASELINE.encode(), b"SCORE = 2.0\n"}
    assert {order.cache_digest for order in orders} == {"cache-1"}


def test_running_again_with_nothing_left_starts_no_pool(night: Night) -> None:
    night.run()
    night.run()
    assert night.connected == 1


def test_a_judge_that_keeps_dying_is_tried_three_times_and_charged_to_nobody_else(night: Night) -> None:
    night.submit("cursed", 'DIES = "out of memory killer"\n')
    night.run()
    (run,) = night.space.ledger.runs.of_candidate("c0002")
    assert isinstance(run.state, Finished) and isinstance(run.state.result.verdict, Infra)
    assert run.attempts == 3
    assert night.state("cursed") is CandidateState.FAILED
    assert night.screen.said("given up")


def test_an_infra_verdict_is_retried_and_the_next_result_counts(tmp_path: Path) -> None:
    def flaky(order: RunOrder) -> Outcome:
        if order.attempt == 1 and order.run_id == "r0001":
            return Finishes(json.dumps({"format": 1, "status": "infra: attention", "reason": "fell back"}))
        return as_the_source_says(order)

    night = Night(tmp_path, outcome=flaky)
    night.run()
    assert [run.attempts for run in night.space.ledger.runs.list("t")] == [2, 1, 1]
    assert all(not isinstance(state.result.verdict, Infra) for state in finished(night))


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

    night = Night(tmp_path, outcome=lying)
    night.run()
    assert {run.attempts for run in night.space.ledger.runs.list("t")} == {2}
    assert night.space.ledger.board("t").baseline.mean == pytest.approx(1.9)


def test_a_report_said_twice_and_one_that_comes_late_change_nothing(night: Night) -> None:
    night.submit("idea", "SCORE = 2.0\n")
    late = Done("memory/cpu0", "r0001", 1, scored(0.5).result_text, "")  # type: ignore[union-attr]
    night.each_round = lambda: night.pool.say_again(late)
    night.run()
    scores = night.space.ledger.board("t").baseline.scores
    assert len(scores) == 3
    assert not broken_invariants(night.space.paths.ledger)


def test_a_report_of_a_run_nobody_knows_is_forgotten(night: Night) -> None:
    night.pool.say_again(Done("memory/cpu0", "r0999", 1, "{}", ""))
    night.run()
    assert len(finished(night)) == 3


def test_an_attempt_without_the_lease_is_stopped(night: Night) -> None:
    stranger = Busy("memory/cpu1", "r0001", 7, Progress())
    night.pool.say_again(stranger)
    stopped: list[tuple[str, str, int]] = []
    stop = night.pool.stop
    night.pool.stop = lambda *who: (stopped.append(who), stop(*who))[1]  # type: ignore[method-assign]
    night.run()
    assert stopped == [("memory/cpu1", "r0001", 7)]


def test_a_lost_node_gives_its_run_back_and_a_new_node_takes_it(night: Night) -> None:
    def lose_once() -> None:
        if night.clock() > 1005 and "memory/cpu1" in {slot.id for slot in night.pool.slots()}:
            night.pool.lose_slot("memory/cpu1")

    night.each_round = lose_once
    night.run()
    assert sorted(run.attempts for run in night.space.ledger.runs.list("t")) == [1, 1, 2]
    assert len(night.space.ledger.board("t").baseline.scores) == 3


@pytest.mark.parametrize(("cluster", "outcome"), [(True, "lost"), (False, "stopped")])
def test_a_restarted_node_that_forgot_its_run_gives_it_back(night: Night, cluster: bool, outcome: str) -> None:
    """On a cluster that counts as an attempt; where slots end with their scheduler it is nobody's fault."""
    night.outlives_us = cluster
    (run, *_) = night.space.ledger.runs.queued("t")
    slot = night.pool.slots()[0]
    assert night.space.ledger.runs.lease(run.id, replace(slot, boot_id="boot-0"), expires_at=10**9) == 1
    night.run()
    assert night.space.ledger.runs.attempts(run.id)[0].outcome == outcome
    assert len(night.space.ledger.board("t").baseline.scores) == 3


def test_a_lease_that_was_never_begun_is_queued_again_and_not_held_against_the_run(night: Night) -> None:
    (run, *_) = night.space.ledger.runs.queued("t")
    for _ in range(3):  # a driver that dies between lease and start, again and again
        attempt = night.space.ledger.runs.lease(run.id, night.pool.slots()[0], expires_at=10**9)
        assert attempt is not None
        night.space.ledger.runs.requeue(run.id, attempt, "never began", counts=False)
    assert night.space.ledger.runs.lease(run.id, night.pool.slots()[0], expires_at=10**9) == 4
    night.run()
    assert night.space.ledger.runs.get(run.id, "t").attempts == 5
    assert len(night.space.ledger.board("t").baseline.scores) == 3


def test_a_lease_on_a_slot_that_is_gone_is_waited_for_until_it_is_over(night: Night) -> None:
    (run, *_) = night.space.ledger.runs.queued("t")
    elsewhere = replace(night.pool.slots()[0], id="far/cpu0", node="far")
    assert night.space.ledger.runs.lease(run.id, elsewhere, expires_at=1500.0) == 1
    night.run()
    second = night.space.ledger.runs.attempts(run.id)[1]
    assert second.started_at >= 1500.0


def test_leases_are_renewed_while_their_slot_answers(tmp_path: Path) -> None:
    night = Night(tmp_path, outcome=lambda order: scored(1.9, after_s=500.0))
    night.run()
    assert {run.attempts for run in night.space.ledger.runs.list("t")} == {1}


def test_a_cancelled_candidate_is_stopped_while_it_runs(night: Night) -> None:
    night.submit("endless", "HANG = True\n")

    def cancel_it() -> None:
        if isinstance(night.space.ledger.runs.of_candidate("c0002")[0].state, Running):
            cancel(night.space, "endless")

    night.each_round = cancel_it
    assert night.run() is Ending.DONE
    (run,) = night.space.ledger.runs.of_candidate("c0002")
    assert isinstance(run.state, Cancelled)
    assert night.pool.stopped == [f"{run.id}.1"]


def test_a_slot_that_refuses_is_left_alone_for_a_while(tmp_path: Path) -> None:
    night = Night(tmp_path)
    start = night.pool.start
    refused: list[float] = []

    def refuse(slot_id: str, order: RunOrder) -> None:
        if slot_id == "memory/cpu0" and len(refused) < 4:
            refused.append(night.clock())
            raise PoolProblem("memory/cpu0 takes no run: the disk is full")
        start(slot_id, order)

    night.pool.start = refuse  # type: ignore[method-assign]
    for number in range(6):
        night.submit(f"idea-{number}", f"SCORE = {2 + number / 100}\n")
    night.run()
    pauses = [later - earlier for earlier, later in pairwise(refused)]
    assert pauses == sorted(pauses) and pauses[0] >= 5 and pauses[-1] >= 20
    assert len(finished(night)) == 9


def test_slots_of_another_kind_are_named_and_left_out(tmp_path: Path) -> None:
    ours, others = memory_slots(2, pool="gpu-a"), memory_slots(1, node="other", pool="gpu-b")
    night = Night(tmp_path, slots=[*others, *ours])
    night.run()
    assert {run.pool for run in night.space.ledger.runs.list("t")} == {"gpu-a"}
    assert len(night.screen.said("other/cpu0 is left out")) == 1


def test_a_lab_stays_on_the_pool_its_baseline_was_measured_on(tmp_path: Path) -> None:
    night = Night(tmp_path, slots=memory_slots(1, pool="gpu-a"))
    night.run()
    for slot in memory_slots(3, node="new", pool="gpu-b"):
        night.pool.add_slot(slot)
    night.submit("idea", "SCORE = 2.0\n")
    night.run()
    assert {run.pool for run in night.space.ledger.runs.list("t")} == {"gpu-a"}


def test_no_slot_and_slots_with_another_cache_are_said_at_once_with_what_is_missing(tmp_path: Path) -> None:
    none = Night(tmp_path / "none", slots=[])
    with pytest.raises(PoolProblem, match="needs a core"):
        none.run()
    other = Night(tmp_path / "other", slots=[replace(memory_slots(1)[0], cache_digest="cache-2")])
    with pytest.raises(PoolProblem, match="cache is cache-2, the lab's is cache-1") as told:
        other.run()
    assert "arsched prepare" in told.value.hint
    assert len(other.space.ledger.runs.queued("t")) == 3
    assert other.pool.closed


def test_slots_that_break_in_the_middle_are_waited_for_but_not_for_ever(night: Night) -> None:
    def break_all() -> None:
        for slot in night.pool.slots():
            night.pool.break_slot(slot.id, "the disk is full")

    night.each_round = break_all
    begun_at = night.clock()
    with pytest.raises(PoolProblem, match="2 × the disk is full"):
        night.run()
    assert night.clock() - begun_at > 600
    assert night.screen.said("waiting for one to come back")


def test_a_baseline_that_never_scores_stops_the_lab_with_its_reason(tmp_path: Path) -> None:
    night = Night(
        tmp_path, outcome=lambda order: Finishes(json.dumps({"format": 1, "status": "oom", "reason": "8 GB"}))
    )
    night.submit("idea", "SCORE = 2.0\n")
    with pytest.raises(LabProblem, match="oom: 8 GB") as told:
        night.run()
    assert "arsched logs" in told.value.hint
    assert night.pool.closed


def press(night: Night, at: dict[float, int]) -> None:
    """Send signals to ourselves when the clock gets there."""
    due = dict(at)

    def each_round() -> None:
        for moment in [moment for moment in due if night.clock() >= moment]:
            signal.raise_signal(due.pop(moment))

    night.each_round = each_round


def test_ctrl_c_once_finishes_what_runs_and_places_nothing_more(night: Night) -> None:
    press(night, {1005.0: signal.SIGINT})
    assert night.run() is Ending.INTERRUPTED
    states = [type(run.state) for run in night.space.ledger.runs.list("t")]
    assert states == [Finished, Finished, Queued]
    assert night.screen.said("finishing 2 runs")
    assert night.run() is Ending.DONE
    assert {run.attempts for run in night.space.ledger.runs.list("t")} == {1}


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP]])
def test_ctrl_c_twice_or_a_termination_queues_what_runs_again_uncounted(night: Night, signals: list[int]) -> None:
    press(night, {1005.0 + number: one for number, one in enumerate(signals)})
    assert night.run() is Ending.INTERRUPTED
    assert [type(run.state) for run in night.space.ledger.runs.list("t")] == [Queued] * 3
    assert len(night.pool.stopped) == 2 and night.pool.closed
    assert {attempt.outcome for attempt in night.space.ledger.runs.attempts("r0001")} == {"stopped"}
    assert night.run() is Ending.DONE
    assert len(night.space.ledger.board("t").baseline.scores) == 3


def test_signal_handlers_are_as_before_afterwards(night: Night) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    night.run()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_repeats_go_on_fresh_seeds_until_the_rule_has_decided(night: Night) -> None:
    night.submit("maybe", "SCORE = 1.893\n")
    night.run()
    runs = night.space.ledger.runs.of_candidate("c0002")
    assert len(runs) >= 2 and runs[1].kind is RunKind.REPEAT
    assert not night.state("maybe").undecided


def test_the_live_file_names_every_slot_and_run(night: Night) -> None:
    night.run()
    assert any(slot.run == "r0001" and slot.name == "baseline" for live in night.screen.shown for slot in live.slots)
    assert all(len(live.slots) == 2 and live.tag == "t" for live in night.screen.shown)
