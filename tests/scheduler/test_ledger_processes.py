"""Several processes on one ledger, some killed in the middle: nothing twice, nothing half, nothing lost."""

from __future__ import annotations

import multiprocessing
import random
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.domain.run import Finished, Queued, Running
from scheduler.domain.search import SearchBudget, SearchSettings
from scheduler.ledger.db import Database
from scheduler.ledger.ledger import MIGRATIONS, migrate
from tests.scheduler import ledger_writer
from tests.scheduler.ledger_kit import CHANGED, SLOT, add_candidate, broken_invariants, open_ledger, start_lab

PROCESSES = 4
KILLS = 20
LOOKS_AT_MOST = 6000  # before a writer dies: from its first statement to some dozens of moves
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.scheduler.ledger_writer"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def at_once(target: Callable[..., None], path: Path) -> list[list[str]]:
    """What each of several processes reported that began at the same time."""
    barrier = CONTEXT.Barrier(PROCESSES)
    files = [path.with_name(f"report-{number}") for number in range(PROCESSES)]
    processes = [CONTEXT.Process(target=target, args=(path, report, barrier)) for report in files]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    return [report.read_text().split() for report in files]


def won_once(reports: list[list[str]]) -> list[str]:
    words = sorted(word for one in reports for word in one)
    assert len(words) == len(set(words)), "two processes both won"
    return words


def test_a_new_ledger_opened_by_several_processes_is_made_once(path: Path) -> None:
    assert at_once(ledger_writer.open_at_once, path) == [["0"]] * PROCESSES
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT number FROM migration").fetchall() == [
            (number + 1,) for number in range(len(MIGRATIONS))
        ]


def test_each_run_is_leased_by_one_process(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger, scores=())
        add_candidate(ledger, "many", runs=60)
    report = at_once(ledger_writer.lease_all, path)
    with open_ledger(path) as ledger:
        runs = ledger.runs.list("t")
        assert won_once(report) == sorted(run.id for run in runs)
        assert all(isinstance(run.state, Running) and run.attempts == 1 for run in runs)
    assert broken_invariants(path) == []


def test_each_result_is_recorded_by_one_process(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger, scores=())
        add_candidate(ledger, "many", runs=40)
        for run in ledger.runs.queued("t"):
            ledger.runs.lease(run.id, SLOT, 2000.0)
    report = at_once(ledger_writer.record_all, path)
    with open_ledger(path) as ledger:
        assert won_once(report) == sorted(run.id for run in ledger.runs.list("t"))
    assert broken_invariants(path) == []


def test_a_name_is_won_by_one_process_and_every_candidate_gets_the_same_seeds(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
    report = at_once(ledger_writer.add_same_names, path)
    assert won_once(report) == sorted(f"name-{number}" for number in range(20))
    with open_ledger(path) as ledger:
        for number in range(1, 22):
            seeds = sorted(run.seed for run in ledger.runs.of_candidate(f"c{number}"))
            assert seeds == list(range(1, 1 + (23 if number == 1 else 2)))
    assert broken_invariants(path) == []


def test_a_candidate_is_moved_by_one_process(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
        names = [add_candidate(ledger, f"name-{number}").id for number in range(30)]
    assert won_once(at_once(ledger_writer.move_all, path)) == names
    assert broken_invariants(path) == []


def test_a_merge_is_made_by_one_process(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
        parts = tuple(add_candidate(ledger, f"part-{number}").id for number in range(2))
    assert won_once(at_once(ledger_writer.combine_at_once, path)) == ["merged"]
    with open_ledger(path) as ledger:
        assert [merge.parts for merge in ledger.board("t").merges] == [parts]
        assert len(ledger.board("t").undecided) <= 1
    assert broken_invariants(path) == []


@pytest.mark.parametrize("dies_after", [1, 2, 5, 10, 20, 40, 80, 160])
def test_a_ledger_whose_making_was_killed_is_made_by_the_next(path: Path, dies_after: int) -> None:
    killed(ledger_writer.migrate_until_killed, path, dies_after)
    with open_ledger(path) as ledger:
        start_lab(ledger)
    assert broken_invariants(path) == []


@pytest.mark.parametrize("dies_after", [5, 20, 60, 120, 180])
def test_an_old_ledger_whose_change_was_killed_is_changed_by_the_next(path: Path, dies_after: int) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
        add_candidate(ledger, "many", runs=30)
    killed(ledger_writer.migrate_until_killed, path, dies_after)
    with closing(Database(path)) as database:
        migrate(database, 1.0, CHANGED)
        assert database.one("SELECT count(*), sum(priority) FROM run")[:] == (33, 0)
    assert broken_invariants(path) == []


def test_writers_killed_at_any_instruction_lose_nothing_and_leave_nothing_half(path: Path) -> None:
    """Each writer goes on where the dead one stopped."""
    with open_ledger(path) as ledger:
        start_lab(ledger)
    rng = random.Random(20260101)
    for kill in range(KILLS):
        report = path.with_name(f"report-{kill}")
        killed(ledger_writer.live_until_killed, path, report, kill, rng.randrange(1, LOOKS_AT_MOST))
        assert broken_invariants(path) == []
        _is_remembered(path, report)
    with open_ledger(path) as ledger:  # they did live before they died
        assert sum(isinstance(run.state, Finished) for run in ledger.runs.list("t")) > KILLS // 2
        assert {record.kind for record in ledger.decisions.history("t")} >= {"promote", "replicate", "discard"}


def test_writers_killed_from_outside_lose_nothing_and_leave_nothing_half(path: Path) -> None:
    """Most of a writer's time goes into the disk, so that is where these are hit: in the midst of a commit."""
    with open_ledger(path) as ledger:
        start_lab(ledger)
    rng = random.Random(20260102)
    for kill in range(KILLS):
        report = path.with_name(f"report-{kill}")
        report.touch()
        process = CONTEXT.Process(target=ledger_writer.live_until_killed, args=(path, report, kill, sys.maxsize))
        process.start()
        lines = rng.randrange(0, 12)
        while report.read_bytes().count(b"\n") < lines:
            assert process.is_alive()
        process.kill()
        process.join()
        assert broken_invariants(path) == []
        _is_remembered(path, report)


def killed(target: Callable[..., None], *arguments: object) -> None:
    """Run a process that is to kill itself."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _is_remembered(path: Path, report: Path) -> None:
    """All that the dead writer reported as committed is there."""
    words = [line.split() for line in report.read_text().splitlines()] if report.exists() else []
    with open_ledger(path) as ledger:
        assert len([w for w in words if w[0] == "decision"]) <= len(ledger.decisions.history("t"))
        for what, ref, *attempt in (w for w in words if w[0] != "decision"):
            if what == "candidate":
                assert ledger.runs.of_candidate(ref)
                continue
            (number,) = map(int, attempt)
            of_run = ledger.runs.attempts(ref)[number - 1]
            assert of_run.number == number
            assert what == "lease" or of_run.outcome
            state = ledger.runs.get(ref, "t").state
            assert what != "result" or (isinstance(state, Finished) and state.attempt == number)


def test_a_snapshot_is_of_one_moment_and_holds_no_one_up(path: Path) -> None:
    with open_ledger(path) as reader, open_ledger(path) as writer:
        start_lab(writer)
        with reader.snapshot():
            before = reader.candidates.list("t")
            add_candidate(writer, "wide")
            assert reader.candidates.list("t") == before
            assert len(reader.board("t").standings) == 1
        assert len(reader.candidates.list("t")) == len(before) + 1


def test_a_driver_that_dies_holding_the_write_lock_locks_no_one_out(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
        wide = add_candidate(ledger, "wide")
    killed(ledger_writer.die_in_a_transaction, path, wide.id)
    with open_ledger(path) as ledger:
        (run,) = ledger.runs.of_candidate(wide.id)
        assert isinstance(run.state, Queued)
        assert ledger.runs.lease(run.id, SLOT, 2000.0) == 1
    assert broken_invariants(path) == []


def test_the_invariants_see_a_broken_ledger(path: Path) -> None:
    """A check that cannot fail is none: each kind of damage is seen."""
    damages = [
        "UPDATE run SET state = 'finished' WHERE number = 4",
        "UPDATE run SET state = 'running' WHERE number = 4",
        "UPDATE run SET attempts = 2 WHERE number = 1",
        "UPDATE attempt SET ended_at = NULL WHERE run = 1",
        "DELETE FROM result WHERE run = 1",
        "DELETE FROM source WHERE candidate = 2",
        "DELETE FROM run WHERE candidate = 2",
        "UPDATE candidate SET state = 'promoted' WHERE number = 1",
        "UPDATE candidate SET state = 'discarded' WHERE number = 2",
        "UPDATE candidate SET origin = 'union' WHERE number = 2",
        "UPDATE proposal SET state = 'failed', trouble = 'x', answered_at = 1",
        "UPDATE search SET state = 'ended'",
    ]
    with open_ledger(path) as ledger:
        start_lab(ledger)
        add_candidate(ledger, "wide")
        search = ledger.searches.start("t", SearchSettings(SearchBudget(), ()))
        ledger.proposals.ask("t", search.number, "tpe", "c0001", 1, 7)
    assert broken_invariants(path) == []
    for damage in damages:
        copy = path.with_name("copy.db")
        copy.write_bytes(path.read_bytes())
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute(damage)
        assert broken_invariants(copy) != [], damage
