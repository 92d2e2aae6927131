"""What the judge scores with, known by content: read into memory of its own and compared with the manifest first.

Validation and holdout rows and both tables of token bytes are private copies: what becomes of the files later changes
no score. Training rows are opened before the candidate starts, hashed once per boot and again when a file changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.cache import Cache, CacheMismatch
from harness.files import write_atomic
from harness.scoring import TokenBytes

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class JudgeData:
    """`val`, `holdout`: uint16 [n, T+1], private to this process; the descriptors are open for reading."""

    cache: Cache
    val: NDArray[np.uint16]
    holdout: NDArray[np.uint16]
    token_bytes: TokenBytes
    train_rows_fd: int
    train_epochs_fd: int


@contextmanager
def judge_data(cache: Cache) -> Iterator[JudgeData]:
    """Everything of a cache that a run is judged with. Raises CacheMismatch for a file that is not the manifest's."""
    tables = [_read_verified(cache, path) for path in (cache.token_bytes_path, cache.token_bytes_upstream_path)]
    with ExitStack() as stack:
        fds = [stack.enter_context(_opened(path)) for path in (cache.train_rows_path, cache.train_epochs_path)]
        _verify_once_per_boot(cache, dict(zip(("train/rows.u16", "train/epochs.i32"), fds, strict=True)))
        val, holdout = (_rows(cache, path) for path in (cache.val_rows_path, cache.holdout_rows_path))
        yield JudgeData(cache, val, holdout, TokenBytes.parse(*tables), *fds)


def _rows(cache: Cache, path: Path) -> NDArray[np.uint16]:
    tokens = np.frombuffer(_read_verified(cache, path), dtype="<u2")
    return tokens.reshape(-1, cache.contract.sequence_length + 1)


def _read_verified(cache: Cache, path: Path) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != cache.files[path.relative_to(cache.directory).as_posix()].sha256:
        raise _damaged(cache, path)
    return content


def _damaged(cache: Cache, path: Path) -> CacheMismatch:
    return CacheMismatch(f"{path} is damaged: its sha256 is not the manifest's", cache.contract)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _verify_once_per_boot(cache: Cache, files: dict[str, int]) -> None:
    """Hash the open files, unless this boot has seen exactly them: a change that keeps its ctime needs a changed clock.

    Where the note of it cannot be written, they are hashed every time. Raises CacheMismatch.
    """
    note = cache.directory.parent / "verified" / f"{cache.directory.name}.json"
    seen = json.dumps([_BOOT_ID.read_text(), cache.digest, {name: _identity(fd) for name, fd in files.items()}])
    with contextlib.suppress(OSError):
        if note.read_text(encoding="utf-8") == seen:
            return
    for name, fd in files.items():
        with os.fdopen(os.dup(fd), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.lseek(fd, 0, os.SEEK_SET)
        if digest != cache.files[name].sha256:
            raise _damaged(cache, cache.directory / name)
    with contextlib.suppress(OSError):
        write_atomic(note, seen, durable=False)


def _identity(fd: int) -> list[int]:
    facts = os.fstat(fd)
    return [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
