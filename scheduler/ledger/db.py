"""The connection to the ledger's SQLite file: write-ahead log, one kind of transaction, errors translated.

Several processes may hold the file open at once. Every write happens inside `transaction()`, which takes the write
lock at its start, so what is read inside it cannot change before the commit. Once `guard` was called, every statement
outside a transaction, every begin and every commit asks whether the files are still there. Holds no SQL of its own
tables.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scheduler.domain.errors import LedgerProblem
from scheduler.ledger.presence import Presence

BUSY_TIMEOUT_S = 30.0
RETRY_S = 0.01
WHAT_IS_LEFT = (
    "keep the branch autoresearch/<tag> (it has every promotion) and refs/arsched/<tag>/ (they have every candidate); "
    "if the file is in `git stash list` or in a backup, end every arsched, put it back with the ledger.db-wal of the "
    "same moment and no other, and run the same command again"
)


class Database:
    """One connection, for one thread. Raises LedgerProblem for everything the file or its neighbours do wrong."""

    def __init__(self, path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        self.is_writing = False  # inside a transaction that may yet be undone
        self._busy_timeout_s = busy_timeout_s
        self._presence: Presence | None = None
        with self._translated():
            self._connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def guard(self) -> None:
        """From here on, raise LedgerProblem when a file of the database is no longer the one that was opened."""
        if not self._database_id():
            with suppress(LedgerProblem), self.transaction():  # whoever may only read does without
                if not self._database_id():
                    self.execute(f"PRAGMA user_version = {1 + secrets.randbelow(2**31 - 1)}")
        self._presence = Presence(self.path, self._database_id())

    def ensure_present(self) -> None:
        """Raises LedgerProblem when the files were deleted, moved or replaced: what is written now would be lost."""
        if self._presence is not None and (loss := self._presence.loss()):
            hint = f"stop whatever cleans up there (git clean -x, git stash --all, rm); {WHAT_IS_LEFT}"
            raise LedgerProblem(f"{loss} while this command ran: nothing is recorded any more", hint)

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        """Run one statement. sqlite3.IntegrityError passes through: it is the caller's to name."""
        if not self._connection.in_transaction:
            self.ensure_present()
        with self._translated():
            return self._connection.execute(sql, [storable(value) for value in values])

    def one(self, sql: str, *values: object) -> Any:
        """The first row, or None."""
        with self._translated():
            return self.execute(sql, *values).fetchone()

    def all(self, sql: str, *values: object) -> list[Any]:
        with self._translated():
            return self.execute(sql, *values).fetchall()

    def insert(self, table: str, **columns: object) -> int:
        """Insert one row and return its rowid. `table` and the column names are the program's own words."""
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        cursor = self.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", *columns.values())
        return int(cursor.lastrowid or 0)

    def stamp(self) -> tuple[int, int]:
        """SQLite's own counters: commits by other connections, rows changed by this one."""
        return int(self.one("PRAGMA data_version")[0]), self._connection.total_changes

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several reads of one moment, whatever others write meanwhile. Locks nobody out."""
        if self._connection.in_transaction:
            yield
            return
        try:
            self.execute("BEGIN DEFERRED")
            yield
        finally:
            with suppress(sqlite3.Error):
                self._connection.rollback()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Inside another transaction it joins that one, so that steps compose."""
        if self._connection.in_transaction:
            yield
            return
        try:
            self.execute("BEGIN IMMEDIATE")
            self.is_writing = True
            yield
            self.ensure_present()
            self.execute("COMMIT")
            self.ensure_present()
        except BaseException:
            # A rollback that fails changes nothing: an open transaction is undone when the file is next opened.
            with suppress(sqlite3.Error):
                self._connection.rollback()
            raise
        finally:
            self.is_writing = False

    @contextmanager
    def references_unchecked(self) -> Iterator[None]:
        """For a change of schema that rebuilds tables others refer to; begin its transaction inside, check there."""
        self.execute("PRAGMA foreign_keys = OFF")
        try:
            yield
        finally:
            self.execute("PRAGMA foreign_keys = ON")

    def _database_id(self) -> int:
        return int(self.one("PRAGMA user_version")[0])

    def _prepare(self) -> None:
        self._connection.row_factory = sqlite3.Row
        self._use_write_ahead_log()
        # FULL: a result is acknowledged to its node once recorded, so it must outlive a power cut, too.
        for pragma in ("foreign_keys = ON", "synchronous = FULL", "recursive_triggers = ON"):
            self.execute(f"PRAGMA {pragma}")

    def _use_write_ahead_log(self) -> None:
        """SQLite does not wait for a lock while it changes the journal, so two first openings may collide."""
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as problem:
                if not _is_busy(problem) or time.monotonic() > deadline:
                    raise self._problem(problem) from None
            except sqlite3.DatabaseError as problem:
                raise self._problem(problem) from None
            time.sleep(RETRY_S)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as problem:
            raise self._problem(problem) from None

    def _problem(self, problem: sqlite3.DatabaseError) -> LedgerProblem:
        try:
            self.ensure_present()  # whatever SQLite ran into is then a consequence
        except LedgerProblem as loss:
            return loss
        if _is_busy(problem):
            hint = "another arsched command is writing; wait for it, or end it, and try again"
            return LedgerProblem(f"the ledger {self.path} stayed locked for {self._busy_timeout_s:g} s", hint)
        if isinstance(problem, sqlite3.OperationalError):
            hint = "check that the folder is writable and the disk is not full"
            return LedgerProblem(f"cannot use the ledger {self.path}: {problem}", hint)
        hint = "restore a copy of it, or move it away and run `arsched init` again; every candidate is still in git"
        return LedgerProblem(f"the ledger {self.path} is damaged: {problem}", hint)


def storable(value: object) -> object:
    """Text as SQLite can hold it. A candidate may print half a surrogate pair, and that must not stop the lab."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def _is_busy(problem: sqlite3.DatabaseError) -> bool:
    return isinstance(problem, sqlite3.OperationalError) and "locked" in str(problem)
