"""Bring a ledger to the newest schema: each step once, in one transaction with the record that it was.

A new step goes to the end of MIGRATIONS. Rows are written elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scheduler.domain.errors import LedgerProblem
from scheduler.ledger.db import Database
from scheduler.ledger.migrations.m001_runs import m001_runs
from scheduler.ledger.migrations.m002_decisions import m002_decisions
from scheduler.ledger.migrations.m003_search import m003_search

APPLICATION_ID = 0x41525343  # "ARSC": how a ledger is told from any other SQLite file
Migration = Callable[[Database], None]
MIGRATIONS: tuple[Migration, ...] = (m001_runs, m002_decisions, m003_search)


def migrate(database: Database, at: float, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to the newest schema. Raises LedgerProblem when it is newer still, or is no ledger."""
    applied = _applied(database)
    if applied == len(migrations):
        return
    if applied > len(migrations):
        message = f"the ledger {database.path} has schema {applied}, this arsched knows up to {len(migrations)}"
        raise LedgerProblem(message, "update arsched to the version that wrote it")
    for number in range(applied + 1, len(migrations) + 1):
        with database.references_unchecked():
            _apply(database, number, migrations[number - 1], at)


def _applied(database: Database) -> int:
    """How many steps the file has; 0 for a new file. A file of another program is refused, never written to."""
    application_id = database.one("PRAGMA application_id")[0]
    tables = database.one("SELECT count(*) FROM sqlite_master")[0]
    if application_id != APPLICATION_ID and (application_id or tables):
        raise LedgerProblem(f"{database.path} is a database, but not a ledger of arsched", "move it away and try again")
    return int(database.one("SELECT max(number) FROM migration")[0]) if tables else 0


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
