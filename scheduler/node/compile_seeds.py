"""Compile caches that runs on this node start with: one folder for each key of an order, left by a first baseline.

    <spool root>/.compiled/<key>/       whole, by the judge's rename; its mtime is when a run last started with it
    <spool root>/.compiled/.<name>...   being written or removed, or left so by a process that was killed

A judge holds a lock on the folder it reads or writes, so a folder whose lock is free may go. Copying is the judge's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scheduler.domain.slot import RunOrder

COMPILED = ".compiled"
MOST_SEEDS = 8


class CompileSeeds:
    """The seeds below one spool. Nothing here fails a run: without a seed it starts cold."""

    def __init__(self, spool_root: Path) -> None:
        self._root = spool_root / COMPILED

    def options(self, order: RunOrder) -> list[str]:
        """The judge's options for an order, none without a key; notes the use and removes what is long unused."""
        if not order.compile_key:
            return []
        seed = self._root / order.compile_key
        with contextlib.suppress(OSError):
            os.utime(seed)
        with contextlib.suppress(OSError):
            self._prune()
        keep = ["--keep-caches", str(seed)] if order.may_keep_caches else []
        return ["--seed-caches", str(seed), *keep]

    def _prune(self) -> None:
        """Remove leftovers, and all but the latest used seeds. One process at a time; others leave it to that one."""
        with contextlib.suppress(BlockingIOError), _locked(self._root):
            folders = [Path(entry.path) for entry in os.scandir(self._root) if entry.is_dir(follow_symlinks=False)]
            for leftover in (folder for folder in folders if folder.name.startswith(".")):
                _remove(leftover, leftover)
            seeds = [folder for folder in folders if not folder.name.startswith(".")]
            seeds.sort(key=lambda seed: seed.stat().st_mtime, reverse=True)
            for seed in seeds[MOST_SEEDS:]:
                _remove(seed, seed.with_name(f".{seed.name}.old"))


def _remove(folder: Path, hidden: Path) -> None:
    """Remove a folder that no judge holds; a seed disappears by one rename first."""
    with contextlib.suppress(BlockingIOError), _locked(folder):
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises BlockingIOError while another process, or another thread, holds the folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
