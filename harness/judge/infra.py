"""What must be in order before a run can begin, and the failure that is nobody's candidate's fault.

Covers: the lock that fences a GPU or a core. Locks are the kernel's: they fall when the last process that holds them is
gone. Not covered: the output folder (harness.judge.output).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.judge.interrupt import Interrupt
from harness.judge.verdict import Verdict

_LOCK_PATIENCE_S = 10.0  # a run that has just been killed may take a moment to let go of its GPU
_RETRY_S = 0.05


class Infra(Exception):
    """The run could not be judged."""

    def __init__(self, word: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = Verdict(f"infra: {word}", reason)


@contextmanager
def hold_lock(path: Path | None, interrupt: Interrupt) -> Iterator[int | None]:
    """Hold the run's lock file, if it has one; yields its descriptor for the candidate to inherit. Raises Infra."""
    if path is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise Infra("lock", f"cannot open the lock {path}: {error.strerror}") from error
        stack.callback(os.close, lock_fd)
        _wait_for_lock(lock_fd, path, interrupt)
        yield lock_fd


def _wait_for_lock(lock_fd: int, path: Path, interrupt: Interrupt) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while not _try_lock(lock_fd):
        if (signal_name := interrupt.signal_name()) is not None:
            raise Infra("interrupted", f"the judge was stopped by {signal_name}")
        if time.monotonic() > deadline:
            raise Infra("lock", f"{path} is held by another run: its device is not free")
        time.sleep(_RETRY_S)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
