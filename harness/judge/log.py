"""What people see of a run: its output in run.log, progress.json about twice a second, a line on standard error.

The candidate's pipe is drained without blocking and without growing, whatever comes through it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time

from harness.judge.output import OutputFolder
from harness.judge.report import Telemetry

_CHUNK = 1 << 16
_CHUNKS_PER_TURN = 64  # a flood must not keep the judge from its clock
_SHOWN_TAIL_BYTES = 1 << 13
_FILE_INTERVAL_S = 0.5
_LINE_INTERVAL_S = 5.0
_TTY_LINE_INTERVAL_S = 0.5


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
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, _CHUNK):
                self._take(data)
        self._cut_tail()
        if self._left_out:
            self._file.write(f"\n[... {self._left_out} bytes left out ...]\n".encode())
        self._file.write(self._tail)
        os.close(self.fd)

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


class JudgeProgress:
    """Shows the state of one run at bounded cost, whatever the candidate reports."""

    def __init__(self, output: OutputFolder, budget_s: float) -> None:
        self._output = output
        self._budget_s = budget_s
        self._file_due = self._line_due = 0.0
        self._is_tty = sys.stderr.isatty()
        self._phase = ""

    def show(self, phase: str, elapsed_s: float, telemetry: Telemetry) -> None:
        """Refresh what is due; a change of phase is always due."""
        now = time.monotonic()
        changed, self._phase = phase != self._phase, phase
        loss = telemetry.loss if telemetry.loss is not None and math.isfinite(telemetry.loss) else None
        if changed or now >= self._file_due:
            self._file_due = now + _FILE_INTERVAL_S
            state = {
                "phase": phase,
                "elapsed_s": round(elapsed_s, 2),
                "budget_s": self._budget_s,
                "step": telemetry.step,
                "loss": loss,
                "tokens": telemetry.tokens,
            }
            self._output.show_progress(json.dumps(state) + "\n")
        if changed or now >= self._line_due:
            self._line_due = now + (_TTY_LINE_INTERVAL_S if self._is_tty else _LINE_INTERVAL_S)
            line = f"{phase:<9} {elapsed_s:6.1f} / {self._budget_s:g} s"
            if telemetry.step is not None:
                line += f"  step {telemetry.step}"
            if loss is not None:
                line += f"  loss {loss:.4f}"
            sys.stderr.write(f"\r\x1b[K{line}" if self._is_tty else f"{line}\n")
            sys.stderr.flush()

    def end_line(self) -> None:
        """Leave the terminal on a fresh line."""
        if self._is_tty:
            sys.stderr.write("\n")
