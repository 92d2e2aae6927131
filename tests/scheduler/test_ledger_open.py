"""Opening a ledger: new, old, newer, of another program, damaged, locked; and what later migrations may rely on."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState, NewCandidate, Source
from scheduler.domain.errors import LedgerProblem
from scheduler.ledger import Ledger
from scheduler.ledger.db import Database
from scheduler.ledger.ledger import MIGRATIONS, migrate
from tests.scheduler.ledger_kit import CHANGED, SLOT, add_candidate, broken_invariants, open_ledger, start_lab


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder 'with' \"quotes\"" / "ledger.db"


def schema_of(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def applied_to(path: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT number, name FROM migration ORDER BY number").fetchall()


def test_a_new_ledger_has_every_migration_on_record(path: Path) -> None:
    open_ledger(path).close()
    assert applied_to(path) == [(number + 1, one.__name__) for number, one in enumerate(MIGRATIONS)]


def test_a_commit_outlives_a_power_cut_and_references_are_checked(path: Path) -> None:
    """A node forgets a result once it knows that the ledger has it."""
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


@pytest.mark.parametrize("applied", [1, 2, 3])
def test_a_ledger_of_a_development_version_is_refused_and_left_alone(path: Path, applied: int) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA application_id = 0x41525343")
        connection.execute(f"PRAGMA user_version = {applied}")
        connection.execute("CREATE TABLE migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at REAL)")
        connection.executemany("INSERT INTO migration VALUES (?, 'm', 1.0)", [(n + 1,) for n in range(applied)])
        connection.execute("CREATE TABLE lab (tag TEXT PRIMARY KEY)")
    before = path.read_bytes()
    with pytest.raises(LedgerProblem, match="made by a development version of arsched") as problem:
        open_ledger(path)
    assert str(path) in problem.value.message and "arsched init in a fresh clone" in problem.value.hint
    assert path.read_bytes() == before and [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_migration_keeps_every_row_and_the_ledger_is_then_as_a_new_one(path: Path, tmp_path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
        add_candidate(ledger, "idea", runs=3)
    before = rows_of(path)
    for file in (path, tmp_path / "new.db"):
        with closing(Database(file)) as database:
            migrate(database, 1.0, CHANGED)
    after = rows_of(path)
    after["run"] = [(*row[:-2], row[-1]) for row in after["run"]]  # without the new column
    assert {table: after[table] for table in before if table != "migration"} | {
        "migration": before["migration"]
    } == before
    assert applied_to(path) == [(number + 1, one.__name__) for number, one in enumerate(CHANGED)]
    assert schema_of(path) == schema_of(tmp_path / "new.db")
    assert broken_invariants(path) == []


def test_a_ledger_whose_references_lead_nowhere_is_not_migrated(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE run SET candidate = 999 WHERE number = 2")
    before = schema_of(path)
    with closing(Database(path)) as database, pytest.raises(LedgerProblem, match="run refers to lost rows"):
        migrate(database, 1.0, CHANGED)
    assert schema_of(path) == before


def rows_of(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for (name,) in tables}


@pytest.mark.parametrize("table", ["event", "decision", "promotion", "merge", "claim"])
def test_what_is_history_refuses_every_change(path: Path, table: str) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
    for statement in (f"UPDATE {table} SET tag = tag", f"DELETE FROM {table}"):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            fill(connection, table)
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


def fill(connection: sqlite3.Connection, table: str) -> None:
    """One row of anything the columns take."""
    columns = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
    special = {"number": 7000, "kind": "discard", "problem": "x", "candidate": None if table == "merge" else 1}
    values = [special.get(column, 1) for column in columns]
    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def test_numbers_given_before_are_not_given_again(path: Path) -> None:
    """Also where the rows that had them are gone: refs and events name them still."""
    with open_ledger(path) as ledger:
        start_lab(ledger)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE sqlite_sequence SET seq = 70 WHERE name = 'candidate'")
        connection.execute("UPDATE sqlite_sequence SET seq = 90 WHERE name = 'run'")
    with open_ledger(path) as ledger:
        new = add_candidate(ledger, "new")
        assert (new.id, ledger.runs.get("last", "t").id) == ("c0071", "r0091")


def test_a_migration_that_fails_halfway_leaves_the_ledger_as_it_was(path: Path) -> None:
    with open_ledger(path) as ledger:
        start_lab(ledger)
    before = schema_of(path)

    def m002_breaks(database: Database) -> None:
        database.execute("ALTER TABLE lab ADD COLUMN extra TEXT NOT NULL DEFAULT ''")
        database.execute("DELETE FROM result")
        database.execute("CREATE TABLE lab (tag TEXT)")

    with closing(Database(path)) as database, pytest.raises(LedgerProblem, match="already exists"):
        migrate(database, 1.0, (*MIGRATIONS, m002_breaks))
    assert schema_of(path) == before
    with open_ledger(path) as ledger:
        assert len(ledger.runs.list("t")) == 3


def test_a_ledger_of_a_newer_arsched_is_refused_and_left_alone(path: Path) -> None:
    open_ledger(path).close()
    with closing(Database(path)) as database:
        migrate(database, 1.0, CHANGED)
    before = schema_of(path)
    with pytest.raises(
        LedgerProblem, match=f"schema {len(CHANGED)}, this arsched knows up to {len(MIGRATIONS)}"
    ) as problem:
        open_ledger(path)
    assert "update arsched" in problem.value.hint
    assert schema_of(path) == before


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE addresses (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(LedgerProblem, match="not a ledger of arsched"):
        open_ledger(path)
    assert [name for name, _ in schema_of(path)] == ["addresses"]
    assert path.read_bytes() == before


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
    with pytest.raises(LedgerProblem, match=r"a folder lies in its place .unable to open"):
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
            ledger.candidates.add("t", NewCandidate(Source(bytes(1 << 20), "", "", 1), "huge", "c", "c0001", "", ""))
        assert "disk is not full" in problem.value.hint
        assert [c.name for c in ledger.candidates.list("t")] == ["baseline"]
    assert broken_invariants(path) == []
