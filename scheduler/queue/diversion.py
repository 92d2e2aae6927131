"""Streams for talk, which never fail; stdout and stderr given to a file for a while, as Ray prints there.

A reader that leaves (`| head`) and a log on a full disk end no work. Ray prints from Python and from C++, at any time;
not covered: what it writes to files of its own, and what its workers print.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from scheduler.domain.errors import PoolProblem

MOST_BYTES = 2**20  # a file larger than that is begun anew


class _Unhindered(io.FileIO):
    """A descriptor for talk: what cannot be written there is dropped, for that is no reason to end a search."""

    def write(self, data: Any, /) -> int:
        with suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def talk_on(descriptor: int, like: TextIO, *, closes: bool) -> TextIO:
    """A stream to a descriptor, of the same encoding as another, that never fails."""
    raw = io.BufferedWriter(_Unhindered(descriptor, "w", closefd=closes))
    return io.TextIOWrapper(raw, like.encoding, like.errors, line_buffering=True)


@contextmanager
def diverted(path: Path) -> Iterator[TextIO]:
    """What is written to stdout and stderr meanwhile goes to the end of `path`; yields a stream to where stderr was.

    After a PoolProblem a line there says where the file is, if anything was written. Where the file cannot be had, or
    stderr is none of the system's, nothing is diverted.
    """
    stream = _duplicate(sys.stderr)
    log = None if stream is None else _open(path)
    if stream is None or log is None:
        yield sys.stderr
        return
    begun_at, before = log.tell(), (sys.stdout, sys.stderr)
    kept = [os.dup(fd) for fd in (1, 2)]
    try:
        _flush(before)
        sys.stdout = sys.stderr = log
        for fd in (1, 2):
            os.dup2(log.fileno(), fd)
        yield stream
    except PoolProblem:
        _flush((log,))
        if log.seek(0, os.SEEK_END) > begun_at:
            stream.write(f"note: what Ray said is in {path}\n")
        raise
    finally:
        _flush((log, stream))
        for fd, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, fd)
            os.close(copy)
        sys.stdout, sys.stderr = before
        with suppress(OSError):
            stream.close()  # `log` stays open: Ray's own handlers may have it until the process ends


def write_unless_unread(stream: TextIO, text: str) -> bool:
    """Write at once; False where the reader is gone, after which the stream leads nowhere. Raises other OSErrors."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        lead_nowhere(stream)
        return False
    return True


def say(stream: TextIO, text: str) -> None:
    """A line of talk. One that cannot be written, as to a log on a full disk, is dropped."""
    with suppress(OSError):
        write_unless_unread(stream, f"{text}\n")


def lead_nowhere(stream: TextIO) -> None:
    """What is still in its buffer goes there as well: Python's own flush at exit would make the exit code 120."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _duplicate(stream: TextIO) -> TextIO | None:
    """A stream of the same encoding to where fd 2 leads now; None where `stream` is not that."""
    try:
        if stream.fileno() != 2:
            return None
        return talk_on(os.dup(2), stream, closes=True)
    except (OSError, ValueError, AttributeError):
        return None


def _open(path: Path) -> TextIO | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_long = path.exists() and path.stat().st_size > MOST_BYTES
        return open(path, "w" if is_long else "a", encoding="utf-8", errors="replace", buffering=1)
    except OSError:
        return None


def _flush(streams: tuple[TextIO, ...]) -> None:
    for stream in streams:
        with suppress(OSError, ValueError):
            stream.flush()
