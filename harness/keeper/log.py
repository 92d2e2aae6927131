"""What a kept command prints: the last of it, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO


class Log:
    """A file that holds the last of what was written: between `limit` bytes and twice as many."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit = path, limit
        self._file: BinaryIO | None = path.open("wb", buffering=0)
        self._size = 0

    def write(self, data: bytes) -> None:
        """A full disk costs the log, not the command."""
        try:
            self._write(data)
        except OSError:
            self._file = None

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        self._file.write(data)
        self._size += len(data)
        if self._size > 2 * self._limit:
            kept = self._path.read_bytes()[-self._limit :]
            self._file.seek(0)
            self._file.truncate()
            self._file.write(kept)
            self._size = len(kept)
