"""The connection to the ledger's SQLite file: write-ahead log, one kind of transaction, errors translated.

Several processes may hold the file open at once, and others may delete it: that is noticed, and a copy saved. Every
write happens inside `transaction()`, which takes the write lock at its start, so what is read inside it cannot change.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from scheduler.domain.errors import LedgerProblem

BUSY_TIMEOUT_S = 30.0
RETRY_S = 0.01
DESCRIPTORS = Path("/dev/fd")  # one entry for each descriptor of this process
HEADER_BYTES = 100
SUFFIXES = ("", "-wal", "-shm")
SAVED = "ledger-saved-"  # how the name of every copy begins that was saved of a ledger whose files went
WHAT_IS_LEFT = (
    "`arsched restore` puts the lab together again, from a saved copy and from what git keeps: every candidate in "
    "refs/arsched/<tag>/, every promotion on the branch autoresearch/<tag>"
)
Inode = tuple[int, int]  # device, number
Stamp = tuple[int, int]  # commits by other connections, rows changed by this one
P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound=NamedTuple)


class Database:
    """One connection, for one thread. Raises LedgerProblem for everything the file or its neighbours do wrong."""

    def __init__(self, path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S, *, durable: bool = True) -> None:
        """`durable=False` does not wait for the disk: what a power cut may undo then is a whole transaction."""
        self.path = path
        self.is_writing = False  # inside a transaction that may yet be undone
        self._busy_timeout_s = busy_timeout_s
        self._presence: Presence | None = None
        self._saved: str | None = None
        with self._translated():
            self._connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        # FULL: a result is acknowledged to its node once recorded, so it must outlive a power cut, too.
        synchronous = "FULL" if durable else "OFF"
        try:
            for pragma in ("foreign_keys = ON", f"synchronous = {synchronous}", "recursive_triggers = ON"):
                self.execute(f"PRAGMA {pragma}")
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def guard(self) -> None:
        """From here on, raise LedgerProblem when a file of the database is no longer the one that was opened.

        Every statement outside a transaction, every begin and every commit then asks whether the files are there.
        """
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
        """Copy what is recorded to a single file, there whole or as before. Raises LedgerProblem, OSError."""
        self.ensure_present()
        with self._translated():
            copy_database(self._connection, path)

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
        if isinstance(problem, sqlite3.OperationalError):
            hint = "check that the folder is writable and the disk is not full"
            return LedgerProblem(f"cannot use the ledger {self.path}: {problem}", hint)
        hint = "move it away (it may still be of use), then run `arsched restore`; every candidate is still in git"
        return LedgerProblem(f"the ledger {self.path} is damaged: {problem}", hint)


def storable(value: object) -> object:
    """Text as SQLite can hold it. A candidate may print half a surrogate pair, and that must not stop the lab."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def _is_busy(problem: sqlite3.DatabaseError) -> bool:
    return isinstance(problem, sqlite3.OperationalError) and "locked" in str(problem)


def copy_database(source: sqlite3.Connection, target: Path, database_id: int | None = None) -> None:
    """Copy to a single file, there by one rename, or not at all. Raises sqlite3.Error, OSError.

    `database_id` is the user version the copy must have: what was overwritten may be another database by now.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            if copy.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("the copy is damaged")
            if database_id not in (None, copy.execute("PRAGMA user_version").fetchone()[0]):
                raise sqlite3.DatabaseError("it is another database")
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)


def move_database(old: Path, new: Path) -> Path:
    """Copy a database that others may have open to `new`, by one rename, and then put the old file out of their way.

    Where `new` is there already only the latter. Others cannot write meanwhile. Returns where the old file is kept, in
    its folder. Raises LedgerProblem.
    """
    kept = next(path for n in count(1) if not (path := old.with_name(f"{old.stem}-moved-{n}{old.suffix}")).exists())
    try:
        with closing(sqlite3.connect(old, isolation_level=None)) as still, closing(sqlite3.connect(old)) as source:
            still.execute("BEGIN IMMEDIATE")
            if not new.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                copy_database(source, new)
            flush_folder(new.parent)  # a power cut shall not find the old file renamed and the new one not yet there
            old.rename(kept)
    except (sqlite3.Error, OSError) as problem:
        hint = "see that no other arsched runs here, that the disk has room and the folders can be written"
        raise LedgerProblem(f"the ledger {old} cannot be moved to {new}: {problem}", hint) from None
    return kept


def flush_folder(folder: Path) -> None:
    """Have the names in it on disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Header(NamedTuple):
    """Of the SQLite file format, 1.3: change counter (offset 24), size in pages (28), user version (60)."""

    changes: int
    pages: int
    database_id: int

    @classmethod
    def parse(cls, raw: bytes) -> Header | None:
        """None for what is no SQLite file."""
        if len(raw) < HEADER_BYTES or not raw.startswith(b"SQLite format 3\0"):
            return None
        return cls(*(int.from_bytes(raw[at : at + 4], "big") for at in (24, 28, 60)))

    def may_follow(self, earlier: Header, database_id: int) -> bool:
        """Whether a checkpoint can have made this of `earlier`: a ledger is never vacuumed, so it only grows."""
        grown = self.changes >= earlier.changes and self.pages >= earlier.pages
        return grown and self.database_id in (earlier.database_id, database_id)


class Presence:
    """Whether the files of an open ledger are still those at their paths: not deleted, moved, replaced, overwritten.

    SQLite does not look: it goes on writing to files that have no name any more. An inode cannot be used again while
    SQLite holds it open, so device and inode tell every other file; a copy written into the same inode is known by the
    header on disk. No descriptor is opened here: closing one would drop every lock this process has on the file.
    Make it after the first statement, when all files are there. `database_id` is the user version, random for each.
    """

    def __init__(self, path: Path, database_id: int) -> None:
        self._path, self.database_id = path, database_id
        self._inodes: dict[Path, Inode] = {}
        for one in (path.with_name(path.name + suffix) for suffix in SUFFIXES):
            with suppress(OSError):
                found = os.stat(one)
                self._inodes[one] = found.st_dev, found.st_ino
        self._written: tuple[int, int] | None = None  # size and time of change when the header was last read
        self._header = self._read_header()

    def loss(self) -> str:
        """What happened to the files, as a sentence without its end; "" while all is well. Costs microseconds."""
        for path, inode in self._inodes.items():
            try:
                found = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return f"{path} was deleted or moved away"
            except OSError as problem:
                return f"{path} cannot be reached ({problem.strerror})"
            if (found.st_dev, found.st_ino) != inode:
                return f"{path} was replaced by another file"
            if path == self._path and (found.st_size, found.st_mtime_ns) != self._written:
                earlier, now = self._header, self._read_header()
                if earlier is not None:  # otherwise descriptors cannot be listed here
                    if now is None or not now.may_follow(earlier, self.database_id):
                        return f"{path} was overwritten"  # by another than this database's own checkpoints
                    self._header = now
                self._written = found.st_size, found.st_mtime_ns
        return "" if self._path in self._inodes else f"{self._path} was deleted or moved away"

    def _read_header(self) -> Header | None:
        with suppress(OSError):
            for entry in os.listdir(DESCRIPTORS):
                with suppress(OSError, ValueError):
                    descriptor = int(entry)
                    found = os.fstat(descriptor)
                    if (found.st_dev, found.st_ino) == self._inodes.get(self._path):
                        return Header.parse(os.pread(descriptor, HEADER_BYTES, 0))
        return None
