"""Whole copies of an SQLite file: made in the folder of the target, there by one rename, also where one was killed."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

from scheduler.domain.errors import LedgerProblem

UNFINISHED = re.compile(r"\..+\.db\.(?P<pid>[1-9]\d{0,8})(-journal)?")
LONGEST_COPY_S = 3600.0


def copy_database(source: sqlite3.Connection, target: Path, database_id: int | None = None) -> None:
    """Copy to a single file, there by one rename, or not at all. Raises sqlite3.Error, OSError.

    `database_id` is the user version the copy must have: what was overwritten may be another database by now.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    remove_unfinished(target.parent)
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


def keep_another(path: Path, database_id: int) -> None:
    """Rename the copy at `path` if it is of another database: that one may be lost, and this its only copy.

    Under a name that none has whose owner's copies are looked for. Raises OSError.
    """
    found = 0
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as copy:
        found = int(copy.execute("PRAGMA user_version").fetchone()[0])
    if found and found != database_id:
        path.rename(next(kept for n in count(1) if not (kept := path.with_name(f"lost-{path.stem}-{n}.db")).exists()))


def remove_unfinished(folder: Path) -> None:
    """Remove the files of copies whose processes were killed, and those of this one. Raises OSError."""
    for path in folder.iterdir():
        found = UNFINISHED.fullmatch(path.name)
        if found and not _is_at_work(int(found["pid"]), path):
            path.unlink(missing_ok=True)


def _is_at_work(pid: int, path: Path) -> bool:
    """Whether another process may be making that copy; a pid may be another one's by now, so not after an hour."""
    with suppress(OSError):
        if pid != os.getpid() and abs(time.time() - path.stat().st_mtime) < LONGEST_COPY_S:
            os.kill(pid, 0)
            return True
    return False


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
