"""The loop: every candidate comes to one end, whatever slots, judges and nodes do meanwhile."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import Noise
from scheduler.domain.errors import LabProblem
from scheduler.domain.run import Finished, Queued, RunKind
from scheduler.domain.slot import Report, RunOrder
from scheduler.policy.explain import describe_undecided
from scheduler.queue import collect, loop
from scheduler.queue.runtime import StopReason
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import BASELINE, RUN_S, PlayedLab
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.memory_pool import Finishes, Hangs


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    return PlayedLab(tmp_path)


def test_a_search_ends_with_every_candidate_decided_and_the_best_promoted(played: PlayedLab) -> None:
    played.submit("worse", "SCORE = 2.0\n")
    played.submit("better", "SCORE = 1.7\n")
    played.submit("broken", 'STATUS = "crash"\n')
    assert played.run() is StopReason.DONE
    assert played.state("better") is CandidateState.BASELINE
    assert played.state("baseline") is CandidateState.PROMOTED
    assert played.state("worse") is CandidateState.DISCARDED
    assert played.state("broken") is CandidateState.FAILED
    assert not broken_invariants(played.space.paths.ledger)
    assert played.pool.closed and not played.space.paths.live.exists()
    assert len(played.pool.started) == len(played.space.ledger.runs.list("t"))


def test_that_a_machine_is_too_unsteady_to_decide_is_said_when_it_begins(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsteady in the first two looks, steady in the third, then unsteady again."""
    looks = iter([0.03, 0.03, 0.0])
    monkeypatch.setattr(loop, "lab_noise", lambda board: Noise(0.005, 9, drift=next(looks, 0.04)))
    for number in range(4):
        played.submit(f"idea-{number}", f"SCORE = 2.{number}\n")
    played.run()
    assert len(played.screen.shown) > 4
    said = [line for line in played.screen.lines if "are not decided" in line]
    assert said == [f"note: {describe_undecided(below)}" for below in (0.06, 0.08)]


def test_a_promotion_is_one_commit_on_the_branch_that_changes_train_py_alone(played: PlayedLab) -> None:
    played.submit("better", "SCORE = 1.7\n", title="a better idea")
    played.run()
    root, branch = played.space.repo.root, played.space.lab.branch
    assert git(root, "show", f"{branch}:train.py") == "SCORE = 1.7\n"
    assert git(root, "diff", "--name-only", f"{branch}~1", branch).split() == ["train.py"]
    assert git(root, "rev-parse", f"{branch}~1").strip() == played.candidate("baseline").commit
    message = git(root, "log", "-1", "--format=%B", branch)
    for trailer in ("Candidate: c0002", "Val-bpb: 1.7", "Effect: -0.", "Error: ", "Runs: 1 vs 3"):
        assert trailer in message
    effect = next(line for line in message.splitlines() if line.startswith("Effect: "))
    assert float(effect.split()[1]) == pytest.approx(-0.2, abs=0.001)
    assert message.startswith("a better idea (c0002)")


def test_results_and_logs_are_kept_next_to_the_ledger(played: PlayedLab) -> None:
    played.run()
    for run in played.space.ledger.runs.list("t"):
        assert played.space.paths.log(run.id, 1).read_text() == f"log of {run.id}.1\n"
        assert json.loads(played.space.paths.result(run.id, 1).read_text())["seed"] == run.seed


def test_both_slots_are_busy_all_the_time_and_the_next_run_starts_in_the_round_of_the_last_result(
    played: PlayedLab,
) -> None:
    for number in range(7):
        played.submit(f"idea-{number}", f"SCORE = {2.0 + number / 100}\n")
    begun_at = played.clock()
    played.run()
    runs = played.space.ledger.runs.list("t")
    assert len(runs) == 10
    assert played.clock() - begun_at <= (RUN_S + 2) * 10 / 2  # a round is a second


def test_no_program_has_a_seed_twice_and_orders_hold_the_candidates_own_bytes(played: PlayedLab) -> None:
    played.submit("idea", "SCORE = 2.0\n")
    played.run()
    orders = played.pool.started
    assert len({(order.train_py, order.seed) for order in orders}) == len(orders)
    assert {order.train_py for order in orders} == {BASELINE.encode(), b"SCORE = 2.0\n"}
    assert {order.cache_digest for order in orders} == {"cache-1"}


def test_running_again_with_nothing_left_starts_no_pool(played: PlayedLab) -> None:
    played.run()
    played.run()
    assert played.connected == 1


def test_a_baseline_that_never_scores_stops_the_lab_with_its_reason(tmp_path: Path) -> None:
    played = PlayedLab(
        tmp_path, outcome=lambda order: Finishes(json.dumps({"format": 1, "status": "oom", "reason": "8 GB"}))
    )
    played.submit("idea", "SCORE = 2.0\n")
    with pytest.raises(LabProblem, match="oom: 8 GB") as raised:
        played.run()
    assert "arsched logs" in raised.value.hint
    assert played.pool.closed


def press(played: PlayedLab, at: dict[float, int]) -> None:
    """Send signals to ourselves when the clock gets there."""
    due = dict(at)

    def each_round() -> None:
        for moment in [moment for moment in due if played.clock() >= moment]:
            signal.raise_signal(due.pop(moment))

    played.each_round = each_round


def test_ctrl_c_once_finishes_what_runs_and_places_nothing_more(played: PlayedLab) -> None:
    press(played, {1005.0: signal.SIGINT})
    assert played.run() is StopReason.INTERRUPTED
    states = [type(run.state) for run in played.space.ledger.runs.list("t")]
    assert states == [Finished, Finished, Queued]
    assert played.screen.said("finishing 2 runs")
    assert played.run() is StopReason.DONE
    assert {run.attempts for run in played.space.ledger.runs.list("t")} == {1}


def test_a_request_to_stop_stays_until_it_is_followed(played: PlayedLab) -> None:
    """A cluster's queue that loses its head meanwhile is followed by another process, which has to see it."""
    stop, there = played.space.paths.stop, list[bool]()

    def each_round() -> None:
        if played.clock() >= 1005.0 and not there:
            stop.touch()
        if played.clock() >= 1005.0:
            there.append(stop.exists())

    played.each_round = each_round
    assert played.run() is StopReason.STOPPED
    assert len(there) > 3 and all(there) and not stop.exists()
    assert len([line for line in played.screen.lines if "placing no more" in line]) == 1


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP]])
def test_ctrl_c_twice_or_a_termination_queues_what_runs_again_uncounted(played: PlayedLab, signals: list[int]) -> None:
    press(played, {1005.0 + number: one for number, one in enumerate(signals)})
    assert played.run() is StopReason.INTERRUPTED
    assert [type(run.state) for run in played.space.ledger.runs.list("t")] == [Queued] * 3
    assert len(played.pool.stopped) == 2 and played.pool.closed
    assert {attempt.outcome for attempt in played.space.ledger.runs.attempts("r0001")} == {"stopped"}
    assert played.run() is StopReason.DONE
    assert len(played.space.ledger.board("t").baseline.scores) == 3


def test_signal_handlers_are_as_before_afterwards(played: PlayedLab) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    played.run()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_repeats_go_on_until_the_rule_has_decided(played: PlayedLab) -> None:
    played.submit("maybe", "SCORE = 1.893\n")
    played.run()
    runs = played.space.ledger.runs.of_candidate("c0002")
    assert len(runs) >= 2 and runs[1].kind is RunKind.REPEAT
    assert not played.state("maybe").undecided


def test_the_live_file_names_every_slot_and_run(played: PlayedLab) -> None:
    played.run()
    assert any(slot.run == "r0001" and slot.name == "baseline" for live in played.screen.shown for slot in live.slots)
    assert all(len(live.slots) == 2 and live.tag == "t" for live in played.screen.shown)


def test_an_interrupt_in_the_round_that_starts_runs_counts_them(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = played.pool.start

    def start_and_interrupt(slot_id: str, order: RunOrder) -> None:
        start(slot_id, order)
        if len(played.pool.started) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(played.pool, "start", start_and_interrupt)
    assert played.run() is StopReason.INTERRUPTED
    assert played.screen.said("finishing 2 runs, placing no more")
    assert len(played.pool.started) == 2


class Enough(Exception):
    """Ends a run of the queue from within a round."""


def endless(folder: Path, slots: int, rounds: int) -> PlayedLab:
    """A lab whose runs never end, one on every slot; its queue is left after so many rounds."""
    played = PlayedLab(folder, slots=slots, outcome=lambda order: Hangs())
    for number in range(slots):
        played.submit(f"idea-{number}", f"SCORE = {number}\n")
    left = iter(range(rounds))

    def count_down() -> None:
        if next(left, None) is None:
            raise Enough

    played.each_round = count_down
    return played


def quiet_statements(folder: Path, slots: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """SQL statements of the quietest round, with a run on every slot."""
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(*args: object, **more: object) -> sqlite3.Connection:
        connection = connect(*args, **more)  # type: ignore[call-overload]
        connection.set_trace_callback(statements.append)
        return connection  # type: ignore[no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", traced)
        played = endless(folder, slots, rounds=20)
    each: list[int] = []
    leave = played.each_round

    def round_ends() -> None:
        each.append(len(statements))
        statements.clear()
        leave()

    played.each_round = round_ends
    with pytest.raises(Enough):
        played.run()
    assert len(played.pool.started) == slots
    return min(each)


def test_a_quiet_round_asks_the_ledger_a_few_times_however_many_slots_are_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the first score it also looks for that; a round without a decision and without the live file is counted."""
    few, many = (quiet_statements(tmp_path / str(slots), slots, monkeypatch) for slots in (2, 12))
    assert few == many <= 8


def test_collecting_grows_with_the_slots_and_not_with_their_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(slots: int) -> int:
        """How often a round of reports is looked at."""
        looks = 0
        real = collect.key_of

        def key_of(report: Report) -> tuple[str, int]:
            nonlocal looks
            looks += 1
            return real(report)

        played = endless(tmp_path / str(slots), slots, rounds=10)
        with monkeypatch.context() as patch, pytest.raises(Enough):
            patch.setattr(collect, "key_of", key_of)
            played.run()
        return looks

    assert work(12) <= 6.5 * work(2)
