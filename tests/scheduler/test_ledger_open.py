"""Opening a ledger: new, old, newer, somebody else's, damaged, locked, or by many processes at once."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState, Origin
from scheduler.domain.decision import Promote, Shelve
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.result import Failed, Scored
from scheduler.domain.run import Finished, Queued
from scheduler.ledger import Ledger
from scheduler.ledger.db import Database
from scheduler.ledger.migrations import MIGRATIONS, migrate
from tests.scheduler.ledger_kit import (
    NOISE,
    SCHEMA_1,
    SCHEMA_2,
    SLOT,
    add_candidate,
    broken_invariants,
    effect,
    load,
    ok,
    open_ledger,
    start_lab,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder 'with' \"quotes\"" / "ledger.db"


def schema_of(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def applied(path: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT number, name FROM migration ORDER BY number").fetchall()


def test_a_new_ledger_has_every_migration_on_record(path: Path) -> None:
    open_ledger(path).close()
    assert applied(path) == [(1, "m001_runs"), (2, "m002_decisions"), (3, "m003_search")]


def test_a_commit_outlives_a_power_cut_and_references_are_checked(path: Path) -> None:
    """A node forgets a result once it is told that the ledger has it."""
    with Ledger.open(path) as ledger:
        settings = {name: ledger._database.one(f"PRAGMA {name}")[0] for name in ("synchronous", "foreign_keys")}
        assert settings == {"synchronous": 2, "foreign_keys": 1}
        assert ledger._database.one("PRAGMA journal_mode")[0] == "wal"


def test_opening_again_changes_nothing(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
    before = schema_of(path)
    with open_ledger(path) as ledger:
        assert [lab.tag for lab in ledger.labs.all()] == ["t"]
    assert schema_of(path) == before


def test_a_ledger_of_schema_1_opens_and_goes_on(path: Path) -> None:
    load(path, SCHEMA_1)
    with open_ledger(path) as ledger:
        board = ledger.board("old")
        assert (board.baseline_id, board.baseline.scores) == ("c0001", (1.95, 1.96))
        crashed, wide = board.of("c0002"), board.of("c0003")
        assert (crashed.failure, wide.scores) == ("crash: exit status 1", (1.9,))
        verdicts = [r.state.result.verdict for r in ledger.runs.list("old") if isinstance(r.state, Finished)]
        assert [type(verdict) for verdict in verdicts] == [Scored, Scored, Failed, Scored]
        assert isinstance(ledger.runs.get("last", "old").state, Queued)
        promote = Promote("c0003", "c0001", effect(1, 2), "better")
        ledger.decisions.apply("old", promote, noise=NOISE, sentence="promoted", commit="f" * 40)
        assert ledger.board("old").baseline_id == "c0003"
    assert broken_invariants(path) == []
    assert [number for number, _ in applied(path)] == [1, 2, 3]


def rows_of(path: Path, table: str, columns: str = "*") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()


def test_a_ledger_of_schema_2_keeps_every_row_and_goes_on(path: Path) -> None:
    load(path, SCHEMA_2)
    columns = {table: ", ".join(column_names(path, table)) for table in TABLES_OF_2}
    before = {table: rows_of(path, table, columns[table]) for table in TABLES_OF_2}
    assert all(before.values())
    with open_ledger(path) as ledger:
        assert {table: rows_of(path, table, columns[table]) for table in TABLES_OF_2} == before
        assert broken_invariants(path) == []
        origins = {c.name: c.origin for c in ledger.candidates.list("old")}
        assert origins.pop("baseline") is Origin.BASELINE and set(origins.values()) == {Origin.SUBMITTED}
        assert [lab.paused_at for lab in ledger.labs.all()] == [None, None]
        assert [record.kind for record in ledger.decisions.history("old")] == KINDS_OF_2
        assert {(record.own_base, record.result_mark) for record in ledger.decisions.history("old")} == {(None, 0)}
        board = ledger.board("old")
        assert (board.baseline.name, board.baseline.scores, board.merges) == ("wide", (1.93, 1.932), ())
        (late,) = [s for s in board.standings if s.name == "late"]
        numbers = [c.id for c in ledger.candidates.list("old")]
        finish_attempt(ledger, late.candidate_id)
        assert ledger.board("old").of(late.candidate_id).scores == (1.92,)
        assert add_candidate(ledger, "new", "old", board.baseline_id).id not in numbers
        shelve = Shelve(late.candidate_id, board.baseline_id, effect(1, 2), "near miss")
        ledger.decisions.apply("old", shelve, noise=NOISE, sentence="shelved")
    assert broken_invariants(path) == []


@pytest.mark.parametrize("table", ["event", "decision", "promotion"])
def test_what_was_append_only_stays_so(path: Path, table: str) -> None:
    load(path, SCHEMA_2)
    open_ledger(path).close()
    for statement in (f"UPDATE {table} SET tag = tag", f"DELETE FROM {table}"):
        with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)


def test_numbers_given_before_are_not_given_again(path: Path) -> None:
    """Also where the rows that had them are gone: refs and events name them still."""
    load(path, SCHEMA_2)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE sqlite_sequence SET seq = 70 WHERE name = 'candidate'")
        connection.execute("UPDATE sqlite_sequence SET seq = 90 WHERE name = 'run'")
    with open_ledger(path) as ledger:
        new = add_candidate(ledger, "new", "old", base_id="c0002")
        assert (new.id, ledger.runs.get("last", "old").id) == ("c0071", "r0091")


def test_a_ledger_whose_references_lead_nowhere_is_not_rebuilt(path: Path) -> None:
    load(path, SCHEMA_2)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE run SET candidate = 999 WHERE number = 5")
    before = schema_of(path)
    with pytest.raises(LedgerProblem, match="run refers to lost rows"):
        open_ledger(path)
    assert schema_of(path) == before


def column_names(path: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def finish_attempt(ledger: Ledger, candidate_id: str) -> None:
    (run,) = ledger.runs.of_candidate(candidate_id)
    assert ledger.runs.record(run.id, 2, ok(1.92))


TABLES_OF_2 = ("lab", "candidate", "source", "run", "attempt", "result", "event", "decision", "promotion")
KINDS_OF_2 = ["discard", "discard", "replicate", "measure-baseline", "promote", "measure-baseline"]


@pytest.mark.parametrize("old", [SCHEMA_1, SCHEMA_2], ids=["schema 1", "schema 2"])
def test_an_old_ledger_brought_up_is_as_a_new_one(path: Path, tmp_path: Path, old: Path) -> None:
    load(path, old)
    open_ledger(path).close()
    open_ledger(tmp_path / "new.db").close()
    assert schema_of(path) == schema_of(tmp_path / "new.db")


def test_a_migration_that_fails_halfway_leaves_the_ledger_as_it_was(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
    before = schema_of(path)

    def m004_breaks(database: Database) -> None:
        database.execute("ALTER TABLE lab ADD COLUMN extra TEXT NOT NULL DEFAULT ''")
        database.execute("DELETE FROM result")
        database.execute("CREATE TABLE lab (tag TEXT)")

    with closing(Database(path)) as database, pytest.raises(LedgerProblem, match="already exists"):
        migrate(database, 1.0, (*MIGRATIONS, m004_breaks))
    assert schema_of(path) == before
    with open_ledger(path) as ledger:
        assert len(ledger.runs.list("t")) == 3


def test_a_ledger_of_a_newer_arsched_is_refused_and_left_alone(path: Path) -> None:
    def m004_future(database: Database) -> None:
        database.execute("CREATE TABLE shelf (candidate INTEGER)")

    open_ledger(path).close()
    with closing(Database(path)) as database:
        migrate(database, 1.0, (*MIGRATIONS, m004_future))
    before = schema_of(path)
    with pytest.raises(LedgerProblem, match="schema 4, this arsched knows up to 3") as problem:
        open_ledger(path)
    assert "update arsched" in problem.value.hint
    assert schema_of(path) == before


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE addresses (name TEXT)")
    with pytest.raises(LedgerProblem, match="not a ledger of arsched"):
        open_ledger(path)
    assert [name for name, _ in schema_of(path)] == ["addresses"]


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all, but long enough to have a header\n" * 100)
    before = path.read_bytes()
    with pytest.raises(LedgerProblem, match=r"damaged: file is not a database"):
        open_ledger(path)
    assert path.read_bytes() == before


def test_a_damaged_page_is_reported_not_read_around(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (os.path.getsize(path) - 4096))
    with pytest.raises(LedgerProblem, match="damaged"), open_ledger(path) as ledger:
        ledger.board("t")


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with open_ledger(path) as ledger:
        start_lab(ledger)


def test_a_folder_in_the_ledgers_place_is_reported(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(LedgerProblem, match="unable to open"):
        open_ledger(path)


def test_a_file_in_its_folders_place_is_reported(path: Path) -> None:
    path.parent.touch()
    with pytest.raises(LedgerProblem, match="folder of the ledger"):
        open_ledger(path)


def test_a_ledger_that_stays_locked_is_reported_with_how_long(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, Ledger.open(path, busy_timeout_s=0.05) as late:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerProblem, match=r"locked for 0\.05 s"):
            late.runs.lease("r0001", SLOT, 1.0)
        assert len(late.runs.list("t")) == 3  # reading goes on
        other.execute("ROLLBACK")
        late.candidates.set_state("c0001", CandidateState.BASELINE, CandidateState.BASELINE, "free again")


def test_a_full_disk_is_reported_and_nothing_is_half_written(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
        pages = ledger._database.one("PRAGMA page_count")[0]
        ledger._database.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(LedgerProblem, match="full") as problem:
            ledger.candidates.add(
                "t",
                name="huge",
                commit="c",
                base_id="c0001",
                train_py=bytes(1 << 20),
                train_sha256="",
                fingerprint="",
                title="",
                author="",
                kind=ledger.runs.list("t")[0].kind,
            )
        assert "disk is not full" in problem.value.hint
        assert [c.name for c in ledger.candidates.list("t")] == ["baseline"]
    assert broken_invariants(path) == []
