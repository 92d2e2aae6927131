"""Running calls in threads so that Ctrl-C, and the first failure, are felt at once.

The threads are daemons: a person who has pressed Ctrl-C does not wait for a stalled connection or a long library call.
Files that such a call was writing were partial anyway and are cleared by the next preparation.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

_WAKE_S = 0.2  # a waiting main thread runs Ctrl-C's handler no later than this

Call = Callable[[], None]


def side_by_side(calls: Sequence[Call], threads: int, stop: threading.Event) -> None:
    """Run the calls, `threads` at a time, and return when all have ended.

    Raises the first exception of a call once the others have heeded `stop`, or KeyboardInterrupt at
    once. `stop` is set in both cases.
    """
    waiting: queue.SimpleQueue[Call] = queue.SimpleQueue()
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    for call in calls:
        waiting.put(call)
    running = [
        threading.Thread(target=_work, args=(waiting, failures, stop), daemon=True)
        for _ in range(min(threads, len(calls)))
    ]
    for thread in running:
        thread.start()
    try:
        _join(running)
    except BaseException:
        stop.set()
        raise
    if not failures.empty():
        raise failures.get()


def interruptible(call: Call) -> None:
    """Run one long library call so that Ctrl-C does not wait for its end."""
    side_by_side([call], 1, threading.Event())


def _work(waiting: queue.SimpleQueue[Call], failures: queue.SimpleQueue[BaseException], stop: threading.Event) -> None:
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


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        while thread.is_alive():
            thread.join(_WAKE_S)
