"""What preparing is doing, on standard error: never silent for long, never a flood.

Covers: one line per stage, and while a stage goes on one line every few seconds, written by a thread of its own so that
a long call into a library does not silence it; on a terminal the line is rewritten in place. Nothing goes to stdout.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_PIPE_INTERVAL_S = 5.0
_TERMINAL_INTERVAL_S = 0.5
_LINE_WIDTH = 100


class Progress:
    """Tells one person about one preparation. Safe to call from any thread."""

    def __init__(self, out: TextIO | None = None, interval_s: float | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._terminal = self._out.isatty()
        self._interval_s = interval_s or (_TERMINAL_INTERVAL_S if self._terminal else _PIPE_INTERVAL_S)
        self._lock = threading.Lock()
        self._stage = ""
        self._detail = ""
        self._transient = False

    def say(self, line: str) -> None:
        """One finished line."""
        with self._lock:
            self._write(line, lasting=True)

    def show(self, detail: str) -> None:
        """How far the current stage is; shown at the next tick."""
        self._detail = detail

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage, keep telling of it while it lasts, and say how long it took."""
        self._stage, self._detail, began = name, "", time.monotonic()
        self.say(f"{name} …")
        stop = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(stop, began), name="progress", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            stop.set()
            ticker.join()
        self.say(f"{name}: {_with(self._detail)}{time.monotonic() - began:.1f} s")

    def _tick(self, stop: threading.Event, began: float) -> None:
        while not stop.wait(self._interval_s):
            with self._lock:
                line = f"{self._stage}: {_with(self._detail)}{time.monotonic() - began:.0f} s so far"
                self._write(line, lasting=not self._terminal)

    def _write(self, line: str, *, lasting: bool) -> None:
        begin = "\r\x1b[2K" if self._transient else ""
        shown = line if lasting else line[:_LINE_WIDTH]
        self._transient = not lasting
        self._out.write(f"{begin}{shown}{chr(10) if lasting else ''}")
        self._out.flush()


def _with(detail: str) -> str:
    return f"{detail}, " if detail else ""


def size(number_of_bytes: float) -> str:
    """ "1.2 MB": bytes for people, in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if number_of_bytes < 1000:
            return f"{number_of_bytes:.3g} {unit}"
        number_of_bytes /= 1000
    return f"{number_of_bytes:.3g} GB"


def count(number: float) -> str:
    """ "1.2 M": a number for people."""
    for unit in ("", " k", " M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} G"
