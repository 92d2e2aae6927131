"""A kept process spoken to in lines, without ever waiting for it: bytes go out as it takes them, lines come as it ends
them. Knows nothing of what the lines mean.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from scheduler.proposers.child import Child, Ending

_CHUNK = 1 << 16
_CHUNKS_AT_A_TIME = 64


class Overlong(Exception):
    """It wrote more than the limit without ending the line; `start` is how it began."""

    def __init__(self, start: bytes) -> None:
        super().__init__()
        self.start = start


class LineProcess:
    """A shell command under a keeper, its input and output in our hands. Raises ProposerProblem, OSError."""

    def __init__(self, command: str, *, log: Path, folder: Path, environment: Mapping[str, str], limit: int) -> None:
        self._limit = limit
        self._out, self._in = bytearray(), bytearray()
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        try:
            self.child = Child(
                ["/bin/sh", "-c", command],
                log=log,
                folder=folder,
                environment=environment,
                pipes=(theirs_in, theirs_out),
            )
        except BaseException:
            self._close_pipes()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def send(self, line: bytes) -> None:
        self._out += line
        self.flush()

    def flush(self) -> None:
        """As much as it takes now. A process that reads no more is noticed by its end or by a limit."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._out:
                del self._out[: os.write(self._to, self._out[:_CHUNK])]

    def lines(self) -> list[bytes]:
        """Lines that have come since, without their ends. Raises Overlong."""
        self.flush()
        self._read()
        *whole, rest = bytes(self._in).split(b"\n")
        self._in = bytearray(rest)
        for line in (*whole, rest):
            if len(line) > self._limit:
                raise Overlong(line)
        return [line for line in whole if line.strip()]

    def ended(self) -> Ending | None:
        return self.child.poll()

    def end(self) -> None:
        self.child.end()
        self._close_pipes()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            for _ in range(_CHUNKS_AT_A_TIME):  # one that never stops writing must not stop us
                data = os.read(self._from, _CHUNK)
                self._in += data
                if not data:
                    return

    def _close_pipes(self) -> None:
        for descriptor in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(descriptor)
