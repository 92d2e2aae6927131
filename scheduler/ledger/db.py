"""The connection to the ledger's SQLite file: write-ahead log, one kind of transaction, errors translated.

Several processes may hold the file open at once, and others may delete it: that is noticed, and a copy saved. Every
write happens inside `transaction()`, which takes the write lock at its start, so what is read inside it cannot change.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from scheduler.domain.errors import LedgerProblem
from scheduler.domain.text import one_line
from scheduler.ledger.copies import copy_database, keep_another
from scheduler.ledger.presence import Presence

BUSY_TIMEOUT_S = 30.0
RETRY_S = 0.01
SAVED = "ledger-saved-"  # how the name of every copy begins that was saved of a ledger whose files went
WHAT_IS_LEFT = (
    "`arsched restore` puts the lab together again, from a saved copy and from what git keeps: every candidate in "
    "refs/arsched/<tag>/, every promotion on the branch autoresearch/<tag>"
)
Stamp = tuple[int, int]  # commits by other connections, rows changed by this one
LEAST_FREE_BYTES = 64 * 2**10  # SQLite's file for locks and a page
UNWRITABLE_HINT = "check that the folder is writable and the disk is not full"
DAMAGED_HINT = (
    "`arsched restore` keeps it aside, puts the latest whole copy back, then what git has on top of that; every "
    "candidate is in git"
)
P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound=NamedTuple)


class LedgerUnwritable(LedgerProblem):
    """The disk, or its rights, refuse what SQLite has to write, also for reading."""


class Database:
    """One connection, for one thread. Raises LedgerProblem for everything the file or its neighbours do wrong."""

    def __init__(self, path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S, *, durable: bool = True) -> None:
        """`durable=False` does not wait for the disk: what a power cut may undo then is a whole transaction."""
        self.path = path
        self.is_writing = False  # inside a transaction that may yet be undone
        self._busy_timeout_s = busy_timeout_s
        self._presence: Presence | None = None
        self._saved: str | None = None
        self.unwritable: LedgerUnwritable | None = None  # why this is a copy in memory, to be read only
        with self._translated():
            self._connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
        # FULL: a result is acknowledged to its node once recorded, so it must outlive a power cut, too.
        self._synchronous = "FULL" if durable else "OFF"
        try:
            self._set_up()
        except LedgerUnwritable as why:
            self.go_on_reading(why)
        except BaseException:
            self._connection.close()
            raise

    def _set_up(self) -> None:
        self._connection.row_factory = sqlite3.Row
        for pragma in ("foreign_keys = ON", f"synchronous = {self._synchronous}", "recursive_triggers = ON"):
            self.execute(f"PRAGMA {pragma}")

    def close(self) -> None:
        self._connection.close()

    def go_on_reading(self, why: LedgerUnwritable) -> None:
        """From here on be a copy in memory of what is recorded now. Raises `why` when that cannot be read either."""
        self._connection.close()
        if self.unwritable is not None or not self.path.is_file() or not self.path.stat().st_size:
            raise why
        try:
            self._connection = read_into_memory(self.path)
        except (sqlite3.Error, OSError):
            raise why from None
        self.unwritable = why
        self._set_up()

    def refuse_writing(self) -> None:
        """Where this is a copy in memory, every change raises what was in the way of the file."""
        if self.unwritable is not None:
            self.execute("PRAGMA query_only = ON")

    def ensure_sound(self) -> None:
        """Read all of it. Raises LedgerProblem when it is damaged."""
        found = [str(row[0]) for row in self.all("PRAGMA integrity_check(3)")]
        found += [f"{row['table']} refers to lost rows" for row in self.all("PRAGMA foreign_key_check")[:3]]
        if found != ["ok"]:
            raise self._damaged("; ".join(one for one in found if one != "ok"))

    def guard(self) -> None:
        """From here on, raise LedgerProblem when a file of the database is no longer the one that was opened.

        Every statement outside a transaction, every begin and every commit then asks whether the files are there.
        """
        if self.unwritable is not None:
            return
        if not self._database_id():
            with suppress(LedgerProblem), self.transaction():  # a reader without permission to write does without
                if not self._database_id():
                    self.execute(f"PRAGMA user_version = {1 + int.from_bytes(os.urandom(4)) % (2**31 - 1)}")
        self._presence = Presence(self.path, self._database_id())

    def ensure_present(self) -> None:
        """Raises LedgerProblem when the files were deleted, moved or replaced: what is written now would be lost.

        Every read and every change asks by itself; this is for one that waits without either.
        """
        if self._presence is not None and (loss := self._presence.loss()):
            saved = self._save(self._presence.database_id)
            hint = f"stop whatever deletes files there, then go on: {WHAT_IS_LEFT}"
            raise LedgerProblem(f"{loss} while this command ran: nothing is recorded any more; {saved}", hint)

    def _save(self, database_id: int) -> str:
        """Copy what the open files hold to a new one, once; an unfinished change is undone first. What came of it."""
        if self._saved is None:
            self._saved = "no copy of what was recorded could be saved"
            with suppress(sqlite3.Error):
                self._connection.rollback()
            name = f"{SAVED}{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.db"
            for folder in (self.path.parent, Path(tempfile.gettempdir())):
                with suppress(sqlite3.Error, OSError):
                    folder.mkdir(exist_ok=True)
                    copy_database(self._connection, folder / name, database_id)
                    self._saved = f"what was recorded until then is saved as {folder / name}"
                    break
        return self._saved

    def back_up(self, path: Path) -> None:
        """Copy what is recorded to a single file, there whole or as before. Raises LedgerProblem."""
        self.ensure_present()
        with self._translated():
            try:
                path.parent.mkdir(exist_ok=True)
                keep_another(path, self._database_id())
                copy_database(self._connection, path)
            except (sqlite3.OperationalError, OSError) as problem:  # of either disk
                hint = "see that its disk has room and the folder can be written"
                raise LedgerProblem(f"the ledger could not be copied to {path}: {problem}", hint) from None

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        """Run one statement. sqlite3.IntegrityError passes through: it is the caller's to name."""
        if not self._connection.in_transaction:
            self.ensure_present()
        with self._translated():
            return self._connection.execute(sql, [storable(value) for value in values])

    def one(self, sql: str, *values: object) -> Any:
        """The first row, or None."""
        return next(iter(self.all(sql, *values)), None)

    def all(self, sql: str, *values: object) -> list[Any]:
        with self._translated():
            return self.execute(sql, *values).fetchall()

    def insert(self, table: str, **columns: object) -> int:
        """Insert one row and return its rowid. `table` and the column names are never a user's."""
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        cursor = self.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", *columns.values())
        return int(cursor.lastrowid or 0)

    def move(self, table: str, number: int | None, from_: str, to: str, **columns: object) -> bool:
        """Take a row from one state to another, setting these columns. False when it is in another."""
        return self.update(table, "number = ? AND state = ?", number, from_, state=to, **columns)

    def update(self, table: str, condition: str, *values: object, **columns: object) -> bool:
        """Set these columns of the rows that meet the condition. Whether there was one."""
        changes = ", ".join(f"{name} = ?" for name in columns)
        sql = f"UPDATE {table} SET {changes} WHERE {condition}"
        return bool(self.execute(sql, *columns.values(), *values).rowcount)

    def rows(self, kind: type[R], sql: str, *values: object) -> list[R]:
        """All rows as values of a NamedTuple that has the query's columns in its order."""
        with self._translated():
            cursor = self.execute(sql, *values)
            cursor.row_factory = None
            return list(map(kind._make, cursor))

    def stamp(self) -> Stamp:
        """Equal stamps mean that nothing was written in between, by this process or another."""
        return int(self.one("PRAGMA data_version")[0]), self._connection.total_changes

    def per_stamp(self, read: Callable[P, T]) -> Callable[P, T]:
        """`read`, for equal arguments asked again only after something was written, by this process or another.

        Inside a transaction, which may be undone, every call reads.
        """
        known: dict[object, T] = {}
        seen: Stamp | None = None

        def read_if_new(*arguments: P.args, **named: P.kwargs) -> T:
            nonlocal seen
            if self.is_writing:
                return read(*arguments, **named)
            stamp, key = self.stamp(), (arguments, *named.items())
            if stamp != seen:
                known.clear()
                seen = stamp
            if key not in known:
                known[key] = read(*arguments, **named)
            return known[key]

        return read_if_new

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several reads of one state, whatever others write meanwhile. Locks no other process out."""
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
        """All changes or none; keep it short. Inside another transaction it joins that one, so that steps compose."""
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

    def use_write_ahead_log(self) -> None:
        """SQLite does not wait for a lock while it changes the journal, so two first openings may collide."""
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.DatabaseError as problem:
                if not _is_busy(problem) or time.monotonic() > deadline:
                    raise self._problem(problem) from None
            time.sleep(RETRY_S)

    def _database_id(self) -> int:
        return int(self.one("PRAGMA user_version")[0])

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
        if self.unwritable is not None:
            return self.unwritable
        if isinstance(problem, sqlite3.OperationalError) and not is_lacking(problem):
            return LedgerUnwritable(f"cannot use the ledger {self.path}: {self._cause(problem)}", UNWRITABLE_HINT)
        return self._damaged(str(problem))

    def _cause(self, problem: sqlite3.OperationalError) -> str:
        """SQLite calls a full disk an I/O error where it cannot make a file for its locks."""
        if self.path.is_dir():
            return f"a folder lies in its place ({problem})"
        if self.path.exists() and not os.access(self.path, os.R_OK):
            return f"this user may not read it ({problem})"
        with suppress(OSError):
            if shutil.disk_usage(self.path.parent).free < LEAST_FREE_BYTES:
                return f"its disk is full ({problem})"
        return str(problem)

    def _damaged(self, what: str) -> LedgerProblem:
        return LedgerProblem(f"the ledger {self.path} is damaged: {one_line(what)}", DAMAGED_HINT)


def storable(value: object) -> object:
    """Text as SQLite can hold it. A candidate may print half a surrogate pair, and that must not stop the lab."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def is_lacking(problem: sqlite3.DatabaseError) -> bool:
    """Whether a table or column is not there that every ledger of its version has."""
    begins = ("no such table", "no such column")
    return isinstance(problem, sqlite3.OperationalError) and str(problem).startswith(begins)


def _is_busy(problem: sqlite3.DatabaseError) -> bool:
    return isinstance(problem, sqlite3.OperationalError) and "locked" in str(problem)


def read_into_memory(path: Path) -> sqlite3.Connection:
    """What is recorded in a database whose disk takes no writes, which SQLite needs to read a write-ahead log.

    First as it is, with the files of whoever has it open; then without those where there is no log; else a copy on
    another disk is read. Raises sqlite3.Error, OSError.
    """
    try:
        return _into_memory(f"{path.absolute().as_uri()}?mode=ro")
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if not log.exists() or not log.stat().st_size:
            return _into_memory(f"{path.absolute().as_uri()}?mode=ro&immutable=1")
    with tempfile.TemporaryDirectory(prefix="arsched-", dir=_roomy_folder(path)) as folder:
        for name in (path.name, log.name):
            shutil.copyfile(path.with_name(name), Path(folder, name))
        return _into_memory(Path(folder, path.name).as_uri())


def _into_memory(uri: str) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as source:
            source.backup(memory)
    except BaseException:
        memory.close()
        raise
    return memory


def _roomy_folder(path: Path) -> str | None:
    """Of the folders for temporary files, one on another disk than `path` is on; None: the usual one."""
    device = path.stat().st_dev
    folders = (tempfile.gettempdir(), "/dev/shm", "/var/tmp")
    return next((one for one in folders if os.path.isdir(one) and os.stat(one).st_dev != device), None)
