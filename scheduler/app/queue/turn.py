"""Whose turn it is to run the queue: one process per repository, told apart by a lock the kernel releases.

Does not say who holds it; the live file does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from scheduler.domain.errors import LabProblem

SUBMIT_LOCK_S = 120.0  # how long one waits for another that adds candidates


class Turn:
    """Take it with `try_take`, give it back with `release`; a process that dies gives it back as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path)

    def try_take(self) -> bool:
        """Whether the turn is ours now; never waits. Raises LabProblem when the disk refuses the lock."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as problem:
            raise _lock_problem(self._path, problem) from None
        return True

    def release(self) -> None:
        self._lock.release()


@contextmanager
def exclusive(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lock for a moment, waiting for others. Raises LabProblem when they take longer than `timeout_s`."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout_s)
    except Timeout:
        hint = "see which arsched commands run, and try again"
        raise LabProblem(f"another arsched command has held {path} for {timeout_s:g} s", hint) from None
    except OSError as problem:
        raise _lock_problem(path, problem) from None
    try:
        yield
    finally:
        lock.release()


def _lock_problem(path: Path, problem: OSError) -> LabProblem:
    return LabProblem(f"{path} cannot be locked: {problem.strerror or problem}", "is the repository writable?")
