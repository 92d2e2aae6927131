"""Whether the files of an open SQLite database are still those at their paths, seen without a lock or a descriptor.

Knows the file's header and the process's open files; not what is in the database, nor what to do about a loss.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

DESCRIPTORS = Path("/dev/fd")  # one entry for each descriptor of this process
HEADER_BYTES = 100
SUFFIXES = ("", "-wal", "-shm")
Inode = tuple[int, int]  # device, number


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
