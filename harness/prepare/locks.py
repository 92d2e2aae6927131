"""Locks between preparations on one node, held by the kernel: they fall with their holder, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.prepare.progress import Progress

_POLL_S = 0.2
_ASK_AGAIN_S = 1.0


@contextmanager
def held(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock file at `path`, waiting as long as it takes and saying so. The file itself stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False, poll_interval=_POLL_S)
    _acquire(lock, path, progress)
    try:
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, progress: Progress) -> None:
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
        return
    with progress.stage("another preparation is at work; waiting for it"):
        while True:
            progress.show(f"process {_holder(path)}")
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=_ASK_AGAIN_S)
                return


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii").strip() or "unknown"
    return "unknown"
