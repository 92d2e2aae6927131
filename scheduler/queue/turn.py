"""Locks on files, released by the kernel when their process dies: whose turn it is to run the queue, who adds now.

A lock holds as long as its file is at its path: where that was deleted or replaced, another process can lock the new
one. Does not say who holds a lock; the live file does.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scheduler.domain.errors import LabProblem

SUBMIT_LOCK_S = 120.0  # how long one waits for another that adds candidates
POLL_S = 0.05


class Turn:
    """Take it with `try_take`, give it back with `release`; a process that dies gives it back as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def try_take(self) -> bool:
        """Whether the turn is ours now; never waits. Raises LabProblem when the disk refuses the lock."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while self._descriptor is None:
                descriptor = _lock(self._path)
                if descriptor is None:
                    return False
                if self._is_at_path(descriptor):
                    self._descriptor = descriptor
                else:  # deleted between opening and locking
                    os.close(descriptor)
        except OSError as problem:
            hint = "is the repository writable?"
            raise LabProblem(f"{self._path} cannot be locked: {problem.strerror or problem}", hint) from None
        return True

    def is_held(self) -> bool:
        """Whether it was taken, and its file is still the one at its path."""
        return self._descriptor is not None and self._is_at_path(self._descriptor)

    def ensure_held(self) -> None:
        """Raises LabProblem when the file was deleted, moved or replaced: another process may have the lock, too."""
        if not self.is_held():
            hint = (
                "stop whatever cleans up there (git clean -x, git stash --all, rm), and run the same command again: "
                "what was recorded is in the ledger beside it"
            )
            raise LabProblem(f"{self._path} was deleted or replaced while this command held its lock", hint)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _is_at_path(self, descriptor: int) -> bool:
        """An inode that is open is not used again, so the comparison cannot be fooled."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except OSError:
            return False


@contextmanager
def exclusive(path: Path, timeout_s: float) -> Iterator[Turn]:
    """Hold a lock for a moment, waiting for others.

    Raises LabProblem when they take longer than `timeout_s`, and at the end when the lock was lost meanwhile.
    """
    lock, deadline = Turn(path), time.monotonic() + timeout_s
    while not lock.try_take():
        if time.monotonic() >= deadline:
            hint = "see which arsched commands run, and try again"
            raise LabProblem(f"another arsched command has held {path} for {timeout_s:g} s", hint)
        time.sleep(POLL_S)
    try:
        yield lock
        lock.ensure_held()
    finally:
        lock.release()


def _lock(path: Path) -> int | None:
    """An open descriptor with the lock on its file; None while another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
