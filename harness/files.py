"""Files and folders that appear whole or not at all.

Covers: writing beside and renaming, flushing to disk first, clearing what an interrupted call left. Not covered: which
files there are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".partial"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` when the block ends well, and nowhere when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data` in one step, making its folder; several processes may do so at once.

    `durable`: it shall outlive a power cut. Raises OSError and leaves nothing when the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode("utf-8", "replace") if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill that appears at `path` when the block ends well."""
    beside = path.with_name(path.name + PARTIAL_SUFFIX)
    remove_tree(beside)
    beside.mkdir(parents=True)
    try:
        yield beside
        for file in beside.rglob("*"):
            _sync(file, os.O_RDONLY)
        beside.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(beside)
        raise


def remove_tree(path: Path) -> None:
    """Remove a folder of ours, read-only files included; nothing there is fine."""
    if path.exists():
        shutil.rmtree(path)


def sync_folder(path: Path) -> None:
    """Have the names in a folder survive a power cut."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
