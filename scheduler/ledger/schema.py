"""The ledger's schema as numbered migrations. The first is schema.sql; one that shipped is never changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from scheduler.domain.errors import LedgerProblem
from scheduler.ledger.db import Database

APPLICATION_ID = 0x4152534C  # "ARSL": marks a ledger among SQLite files
BEFORE_0_1 = 0x41525343  # "ARSC": of development versions
APPEND_ONLY = ("event", "decision", "promotion", "merge", "claim")
Migration = Callable[[Database], None]


def m001_tables(database: Database) -> None:
    """The tables of version 0.1; those of APPEND_ONLY refuse every change of a row."""
    statement = ""
    for line in Path(__file__).with_name("schema.sql").read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            database.execute(statement)
            statement = ""
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            database.execute(
                f"CREATE TRIGGER {table}_refuses_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} rows are append-only'); END"
            )


MIGRATIONS: tuple[Migration, ...] = (m001_tables,)


def migrate(database: Database, at: float, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to the newest schema.

    Raises LedgerProblem, having changed nothing, when the file is newer, of a development version, or no ledger.
    """
    applied = _applied(database)
    if applied > len(migrations):
        message = f"the ledger {database.path} has schema {applied}, this arsched knows up to {len(migrations)}"
        raise LedgerProblem(message, "update arsched to the version that wrote it")
    database.use_write_ahead_log()
    for number in range(applied + 1, len(migrations) + 1):
        with database.references_unchecked():
            _apply(database, number, migrations[number - 1], at)


def _applied(database: Database) -> int:
    """How many migrations the file has; 0 for a new file."""
    with database.snapshot():
        application_id = database.one("PRAGMA application_id")[0]
        tables = database.one("SELECT count(*) FROM sqlite_master")[0]
        is_ledger = tables and application_id == APPLICATION_ID
        applied = database.one("SELECT max(number) FROM migration")[0] if is_ledger else 0
    if application_id == BEFORE_0_1:
        message = f"the ledger {database.path} was made by a development version of arsched, before 0.1"
        raise LedgerProblem(message, "finish it with that version, or start a new lab: arsched init in a fresh clone")
    if application_id != APPLICATION_ID and (application_id or tables):
        raise LedgerProblem(f"{database.path} is a database, but not a ledger of arsched", "move it away and try again")
    return int(applied)


def _apply(database: Database, number: int, migration: Migration, at: float) -> None:
    with database.transaction():
        if _applied(database) >= number:  # another process was first
            return
        if number == 1:
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(
                "CREATE TABLE migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at REAL NOT NULL)"
            )
        migration(database)
        if dangling := database.all("PRAGMA foreign_key_check"):
            raise LedgerProblem(f"the ledger {database.path} is damaged: {dangling[0]['table']} refers to lost rows")
        database.insert("migration", number=number, name=migration.__name__, applied_at=at)
