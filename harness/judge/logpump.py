"""The candidate's output, from its pipe into run.log, within a cap: the head as it comes, the tail at the end.

Covers: draining a pipe without blocking and without growing, whatever comes through it; the last lines for a verdict.
Not covered: reading anything into what was printed.
"""

from __future__ import annotations

import os

_CHUNK = 1 << 16
_CHUNKS_PER_TURN = 64  # a flood must not keep the judge from its clock
_SHOWN_TAIL_BYTES = 1 << 13


class LogPump:
    """Copies a pipe into a file of at most `cap_bytes` (plus one line that says what was left out)."""

    def __init__(self, pipe_fd: int, log_fd: int, cap_bytes: int) -> None:
        os.set_blocking(pipe_fd, False)
        self.fd = pipe_fd
        self._file = open(log_fd, "wb", buffering=0, closefd=False)  # noqa: SIM115 -- the descriptor is the caller's
        self._head_left = cap_bytes // 2
        self._tail_cap = cap_bytes - cap_bytes // 2
        self._tail = bytearray()
        self._left_out = 0
        self._shown = bytearray()

    @property
    def truncated(self) -> bool:
        return self._left_out > 0

    def pump(self) -> bool:
        """Copy what is there; False once the pipe has ended."""
        for _ in range(_CHUNKS_PER_TURN):
            try:
                data = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._take(data)
        return True

    def tail_text(self) -> str:
        """The last few kilobytes, for a verdict's reason."""
        return self._shown.decode("utf-8", "replace")

    def finish(self) -> None:
        """Drain what is left, write the tail, close the pipe. Call once every writer is dead."""
        while self.pump() and self._more_to_read():
            continue
        self._cut_tail()
        if self._left_out:
            self._file.write(f"\n[... {self._left_out} bytes left out ...]\n".encode())
        self._file.write(self._tail)
        os.close(self.fd)

    def _more_to_read(self) -> bool:
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return False
        self._take(data)
        return bool(data)

    def _take(self, data: bytes) -> None:
        self._shown = (self._shown + data[-_SHOWN_TAIL_BYTES:])[-_SHOWN_TAIL_BYTES:]
        head, rest = data[: self._head_left], data[self._head_left :]
        if head:
            self._file.write(head)
            self._head_left -= len(head)
        self._tail += rest
        # Cut only when a full cap has piled up: moving the tail at every chunk would cost more than the flood.
        if len(self._tail) > 2 * self._tail_cap:
            self._cut_tail()

    def _cut_tail(self) -> None:
        surplus = max(0, len(self._tail) - self._tail_cap)
        self._left_out += surplus
        del self._tail[:surplus]
