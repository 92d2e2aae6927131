"""Files and folders that appear whole or not at all, and the folder that all caches of this node lie in.

Covers: writing under a temporary name, flushing to disk, renaming, clearing what an interrupted call left. Not covered:
which files there are.
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
_COPIED_AT_ONCE = 1 << 30


def cache_root() -> Path:
    """Folder of all caches: $ARSCHED_CACHE, else $XDG_CACHE_HOME/arsched, else ~/.cache/arsched."""
    if own := os.environ.get("ARSCHED_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "arsched"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` when the block ends well, and nowhere when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file's content to `target`, by reference where the file system can. Raises OSError."""
    with source.open("rb") as read, whole_file(target) as write:
        with contextlib.suppress(OSError, AttributeError):  # two file systems, an old kernel, or not Linux
            while os.copy_file_range(read.fileno(), write.fileno(), _COPIED_AT_ONCE):
                pass
        shutil.copyfileobj(read, write)  # what is left, mostly nothing


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
    temporary = path.with_name(path.name + PARTIAL_SUFFIX)
    remove_tree(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file, os.O_RDONLY)
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(temporary)
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
