"""What every stage of preparing uses: progress on standard error, the lock against another preparation, threads.

Covers: a line per stage and, while it lasts, one every few seconds, written by a thread so that a long library call
does not silence it; locks that fall with their holder; calls that Ctrl-C need not wait for. Not covered: the stages.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout

_PIPE_INTERVAL_S = 5.0
_TERMINAL_INTERVAL_S = 0.5
_LINE_WIDTH = 100
_LOCK_POLL_S, _LOCK_ASK_AGAIN_S = 0.2, 1.0
_WAKE_S = 0.2  # a waiting main thread runs Ctrl-C's handler no later than this

Call = Callable[[], None]


class PrepareError(Exception):
    """Preparing cannot go on: the message is for people, what failed and where; `hint`: what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class PrepareProgress:
    """Reports one preparation; on a terminal a stage's line is rewritten in place. Safe to call from any thread."""

    def __init__(self, out: TextIO | None = None, interval_s: float | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._terminal = self._out.isatty()
        self._interval_s = interval_s or (_TERMINAL_INTERVAL_S if self._terminal else _PIPE_INTERVAL_S)
        self._lock = threading.Lock()
        self._stage = ""
        self._detail = ""
        self._transient = False

    def print(self, line: str) -> None:
        """One finished line."""
        with self._lock:
            self._write(line, lasting=True)

    def show(self, detail: str) -> None:
        """How far the current stage is; shown at the next tick."""
        self._detail = detail

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Print that a stage begins, how far it is while it lasts, and how long it took."""
        self._stage, self._detail, began = name, "", time.monotonic()
        self.print(f"{name} ...")
        stop = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(stop, began), name="progress", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            stop.set()
            ticker.join()
        self.print(f"{name}: {self._so_far()}{time.monotonic() - began:.1f} s")

    def _tick(self, stop: threading.Event, began: float) -> None:
        while not stop.wait(self._interval_s):
            with self._lock:
                line = f"{self._stage}: {self._so_far()}{time.monotonic() - began:.0f} s so far"
                self._write(line, lasting=not self._terminal)

    def _so_far(self) -> str:
        return f"{self._detail}, " if self._detail else ""

    def _write(self, line: str, *, lasting: bool) -> None:
        begin = "\r\x1b[2K" if self._transient else ""
        shown = line if lasting else line[:_LINE_WIDTH]
        self._transient = not lasting
        self._out.write(f"{begin}{shown}{chr(10) if lasting else ''}")
        self._out.flush()


def size(number_of_bytes: float) -> str:
    """ "1.2 MB": bytes for people, in powers of ten."""
    return _scaled(number_of_bytes, (" B", " kB", " MB", " GB"))


def count(number: float) -> str:
    """ "1.2 M": a number for people."""
    return _scaled(number, ("", " k", " M", " G"))


def _scaled(number: float, units: tuple[str, ...]) -> str:
    power = 0
    while number >= 1000 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g}{units[power]}"


@contextmanager
def held(path: Path, progress: PrepareProgress) -> Iterator[None]:
    """Hold the lock file at `path`, waiting as long as it takes and reporting so. The file itself stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False, poll_interval=_LOCK_POLL_S)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _wait_for(lock, path, progress)
    try:
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        lock.release()


def _wait_for(lock: FileLock, path: Path, progress: PrepareProgress) -> None:
    with progress.stage("another preparation is at work; waiting for it"):
        while not lock.is_locked:
            holder = ""
            with contextlib.suppress(OSError):
                holder = path.read_text(encoding="ascii").strip()
            progress.show(f"process {holder or 'unknown'}")
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=_LOCK_ASK_AGAIN_S)


def run_in_threads(calls: Sequence[Call], threads: int, stop: threading.Event) -> None:
    """Run the calls, `threads` at a time, and return when all have ended.

    Raises the first exception of a call once the others have obeyed `stop`, or KeyboardInterrupt at once. `stop` is set
    in both cases. The threads are daemons: Ctrl-C does not wait for a stalled connection or a long library call, and
    what such a call was writing was partial anyway and is cleared by the next preparation.
    """
    waiting: queue.SimpleQueue[Call] = queue.SimpleQueue()
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    for call in calls:
        waiting.put(call)

    def work() -> None:
        while not stop.is_set():
            try:
                call = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                call()
            except BaseException as failure:
                failures.put(failure)
                stop.set()

    running = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(calls)))]
    for thread in running:
        thread.start()
    try:
        for thread in running:
            while thread.is_alive():
                thread.join(_WAKE_S)
    except BaseException:
        stop.set()
        raise
    if not failures.empty():
        raise failures.get()


def interruptible(call: Call) -> None:
    """Run one long library call so that Ctrl-C does not wait for its end."""
    run_in_threads([call], 1, threading.Event())
