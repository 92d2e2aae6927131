"""Inductor's and Triton's caches from one run to another: copied in before the launch, copied out after a scored run.

Private writable copies, never links to the original, whole or absent, limited in bytes, entries and depth. A failure
costs one line on standard error and never the run. Whose caches may be kept, and how many, is the scheduler's to say.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.judge.output import opened

INDUCTOR, TRITON = "inductor", "triton"  # below the run's folder of caches, and below a kept one
LARGEST_BYTES = 2 << 30
MOST_ENTRIES = 20_000
DEEPEST = 16
_LARGEST_GROUP_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


def seed_caches(source: Path | None, caches: Path) -> bool:
    """Copy kept caches into a run's own folder; False when it starts cold, which a missing source is no error for."""
    if source is None:
        return False
    copier = _Copier(file_mode=0o600)
    try:
        with _locked(source, fcntl.LOCK_SH) as kept:
            copier.copy(kept, caches)
        _name_the_copies(caches / TRITON)
    except OSError as error:
        if os.path.lexists(source):
            sys.stderr.write(f"judge: the run starts with cold compile caches: {error}\n")
        copier.files = 0
    if not copier.files:
        for name in (INDUCTOR, TRITON):
            shutil.rmtree(caches / name, ignore_errors=True)
    return copier.files > 0


def keep_caches(caches: Path, target: Path | None) -> None:
    """Copy a run's caches to `target`, which appears whole, by one rename, or not at all; an existing one is kept.

    Call once nothing of the candidate is alive: what it left is read as a hostile tree, never followed. An unfinished
    copy lies next to the target as `.NAME.*.partial`, locked while its judge lives.
    """
    if target is None or os.path.lexists(target):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            with _locked(temporary, fcntl.LOCK_EX), opened(caches, os.O_DIRECTORY | os.O_NOFOLLOW) as left:
                copier = _Copier(file_mode=0o400)
                copier.copy(left, temporary)
                if copier.files:
                    _flush(temporary)
                    temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if not os.path.lexists(target):  # else another run was first
            sys.stderr.write(f"judge: the compile caches are not kept: {error}\n")


class _Copier:
    """One bounded copy of the two cache folders: the regular files that may be read, and nothing else that is there.

    `file_mode` is the mode of every file it makes, whatever the original's; `files` counts them.
    """

    def __init__(self, file_mode: int) -> None:
        self.files = 0
        self._file_mode = file_mode
        self._bytes_left, self._entries_left = LARGEST_BYTES, MOST_ENTRIES

    def copy(self, source: int, target: Path, depth: int = 0) -> None:
        """Fill the folder `target` from the open folder `source`. Raises OSError, over the limits as well."""
        if depth > DEEPEST:
            raise OSError(errno.ELOOP, f"folders lie more than {DEEPEST} deep")
        with os.scandir(source) as entries:
            for entry in entries:
                if depth or entry.name in (INDUCTOR, TRITON):
                    with contextlib.suppress(PermissionError):
                        self._copy_entry(entry, source, target / entry.name, depth)

    def _copy_entry(self, entry: os.DirEntry[str], parent: int, target: Path, depth: int) -> None:
        self._entries_left -= 1
        if self._entries_left < 0:
            raise OSError(errno.EFBIG, f"more than {MOST_ENTRIES} files and folders")
        mode = entry.stat(follow_symlinks=False).st_mode  # opening a FIFO or a device can have effects of its own
        if stat.S_ISDIR(mode):
            with opened(entry.name, os.O_DIRECTORY | os.O_NOFOLLOW, parent) as folder:
                target.mkdir()
                self.copy(folder, target, depth + 1)
        elif stat.S_ISREG(mode) and depth:
            with opened(entry.name, os.O_NONBLOCK | os.O_NOFOLLOW, parent) as file:
                self._copy_file(file, target)

    def _copy_file(self, source: int, target: Path) -> None:
        left = os.fstat(source).st_size
        self._bytes_left -= left
        if self._bytes_left < 0:
            raise OSError(errno.EFBIG, f"more than {LARGEST_BYTES >> 20} MB")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(target, flags, self._file_mode), "wb") as copy:
            while left and (chunk := os.read(source, min(left, _CHUNK_BYTES))):
                copy.write(chunk)
                left -= len(chunk)
        self.files += 1


def _name_the_copies(triton: Path) -> None:
    """Triton notes the files of a kernel by absolute paths and compiles anew where those are gone: name the copies.

    A note that cannot be read, or whose files did not all come along, goes: that kernel is compiled again.
    """
    for note in triton.glob("*/__grp__*"):
        try:
            if note.stat().st_size > _LARGEST_GROUP_BYTES:
                raise ValueError("too large to be one")
            paths = {str(name): str(note.parent / name) for name in json.loads(note.read_bytes())["child_paths"]}
            if not all(map(os.path.isfile, paths.values())):
                raise ValueError("not whole")
        except (ValueError, KeyError, TypeError, RecursionError):
            note.unlink()
        else:
            note.write_text(json.dumps({"child_paths": paths}))


def _flush(folder: Path) -> None:
    """Have everything below on the disk: a file that a power cut has emptied would break every run seeded with it."""
    for path in folder.rglob("*"):
        with opened(path, os.O_NOFOLLOW) as fd:
            os.fsync(fd)


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[int]:
    """An open folder under a lock that falls with this process; whoever removes folders here respects it."""
    with opened(folder, os.O_DIRECTORY) as fd:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        yield fd
