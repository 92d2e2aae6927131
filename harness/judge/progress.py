"""How far a run is, for people: progress.json about twice a second, and a line on standard error.

Covers: what the candidate has reported, throttling. Not covered: any decision.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass, field

from harness.judge.output import Output

LOSS_MARKS = (0.25, 0.5, 0.75)  # of the budget
_FILE_INTERVAL_S = 0.5
_LINE_INTERVAL_S = 5.0
_TTY_LINE_INTERVAL_S = 0.5


@dataclass(slots=True)
class Telemetry:
    """The candidate's own words about its run; None until it has said something."""

    step: int | None = None
    loss: float | None = None
    tokens: int | None = None
    attention: str | None = None
    peak_memory_mb: float | None = None
    mfu: float | None = None
    loss_at: list[tuple[float, float]] = field(default_factory=list)
    _passed: int = 0

    def mark_loss(self, used: float) -> None:
        """Keep the loss when a quarter, half and three quarters of the budget are `used` (a share of it)."""
        while self._passed < len(LOSS_MARKS) and used >= LOSS_MARKS[self._passed]:
            if self.loss is not None and math.isfinite(self.loss):
                self.loss_at.append((LOSS_MARKS[self._passed], round(self.loss, 5)))
            self._passed += 1


class Progress:
    """Shows the state of one run at bounded cost, whatever the candidate reports."""

    def __init__(self, output: Output, budget_s: float) -> None:
        self._output = output
        self._budget_s = budget_s
        self._file_due = self._line_due = 0.0
        self._is_tty = sys.stderr.isatty()
        self._phase = ""

    def show(self, phase: str, elapsed_s: float, telemetry: Telemetry) -> None:
        """Refresh what is due; a change of phase is always due."""
        now = time.monotonic()
        changed, self._phase = phase != self._phase, phase
        if changed or now >= self._file_due:
            self._file_due = now + _FILE_INTERVAL_S
            self._write(phase, elapsed_s, telemetry)
        if changed or now >= self._line_due:
            self._line_due = now + (_TTY_LINE_INTERVAL_S if self._is_tty else _LINE_INTERVAL_S)
            self._print(phase, elapsed_s, telemetry)

    def end_line(self) -> None:
        """Leave the terminal on a fresh line."""
        if self._is_tty:
            sys.stderr.write("\n")

    def _write(self, phase: str, elapsed_s: float, telemetry: Telemetry) -> None:
        state = {
            "phase": phase,
            "elapsed_s": round(elapsed_s, 2),
            "budget_s": self._budget_s,
            "step": telemetry.step,
            "loss": _finite_or_none(telemetry.loss),
            "tokens": telemetry.tokens,
        }
        self._output.show_progress(json.dumps(state) + "\n")

    def _print(self, phase: str, elapsed_s: float, telemetry: Telemetry) -> None:
        line = f"{phase:<9} {elapsed_s:6.1f} / {self._budget_s:g} s"
        if telemetry.step is not None:
            line += f"  step {telemetry.step}"
        if (loss := _finite_or_none(telemetry.loss)) is not None:
            line += f"  loss {loss:.4f}"
        sys.stderr.write(f"\r\x1b[K{line}" if self._is_tty else f"{line}\n")
        sys.stderr.flush()


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
