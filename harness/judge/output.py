"""The output folder: the judge's own files, whatever a candidate does to the folder and to the names in it.

One judge at a time claims it, with no result of an earlier run left in it, writes whole files through a descriptor that
is older than the candidate, and takes back its names and its place once the candidate is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.judge.report import LOG_NAME, PROGRESS_NAME, RESULT_NAME, InfraFailure

_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_COPY_BYTES = 64 << 20  # of a run.log that lost its name: the candidate may have made it any size
_LEFTOVER = re.compile(rf"\.({RESULT_NAME}|{PROGRESS_NAME}|{LOG_NAME})\.[0-9a-f]{{16}}")


class OutputFolder:
    """A claimed folder. Files are made under random names and renamed, so a reader sees the old file or the new one."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path, self._fd = path, fd
        self._modes = [(place, _mode_of(place)) for place in (*reversed(path.parents), path)]
        self._progress: bytes | None = None
        self.log_fd = os.open(LOG_NAME, os.O_RDWR | _NEW_FILE, 0o666, dir_fd=fd)

    def show_progress(self, text: str) -> None:
        """Replace progress.json. What a candidate puts in its way costs the display, never the run."""
        self._progress = text.encode()
        with contextlib.suppress(OSError):
            self._put(PROGRESS_NAME, self._progress, durable=False)

    def put_result(self, text: str) -> None:
        """Write result.json, durable; call after `settle`. Raises OSError."""
        self._put(RESULT_NAME, text.encode(), durable=True)

    def settle(self) -> str:
        """Take back the folder's place and the judge's names in it, once everything of the candidate is dead.

        What lies at the path instead of the folder is moved aside, never deleted: it may be the user's. Returns what
        had become of the folder, "" when it was where it belongs. Raises OSError.
        """
        for place, mode in self._modes:  # only the owner's rights that it and the folders above it had
            with contextlib.suppress(OSError):
                lost = mode & ~_mode_of(place) & stat.S_IRWXU
                if lost and not place.is_symlink():
                    place.chmod(_mode_of(place) | lost)
        fault = "" if _is_same(self._path, self._fd) else self._take_place()
        self._clear(RESULT_NAME)
        if self._progress is not None:
            self._clear(PROGRESS_NAME)
            self._put(PROGRESS_NAME, self._progress, durable=False)
        if not _is_same(LOG_NAME, self.log_fd, self._fd):
            self._clear(LOG_NAME)
            self._put(LOG_NAME, os.pread(self.log_fd, _LONGEST_COPY_BYTES, 0), durable=False)
        return fault

    def close(self) -> None:
        os.close(self.log_fd)
        os.close(self._fd)

    def _put(self, name: str, data: bytes, *, durable: bool) -> None:
        temporary = _random_name(name)
        try:
            with open(os.open(temporary, os.O_WRONLY | _NEW_FILE, 0o666, dir_fd=self._fd), "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._fd)
            raise

    def _clear(self, name: str) -> None:
        """Free one of the judge's names. A tree is renamed first: that works however deep or locked it is."""
        aside = _random_name(name)
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, aside, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            with contextlib.suppress(OSError):
                remove_hostile_tree(aside, self._fd)

    def _take_place(self) -> str:
        try:
            # What lies there, or a file or dangling link where a folder above it was.
            for place in (self._path, *self._path.parents):
                if place == self._path or not place.is_dir():
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        place.rename(place.with_name(_random_name(place.name)))
            self._path.mkdir(parents=True)
            fresh = os.open(self._path, _FOLDER)
        except OSError:  # covered by a mount, or out of reach: the folder that was claimed is still the best place
            return f"{self._path} was covered or cut off during the run"
        os.close(self._fd)
        self._fd = fresh
        return f"{self._path} was moved or removed during the run"


@contextmanager
def claim_output(path: Path) -> Iterator[OutputFolder]:
    """Hold the output folder, emptied of an earlier run's files. Raises InfraFailure."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, _FOLDER)
    except OSError as error:
        raise InfraFailure("output", f"cannot use {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_earlier_run(fd)
        output = OutputFolder(path, fd)
    except BlockingIOError:
        os.close(fd)
        raise InfraFailure("output", f"another judge is writing to {path}") from None
    except OSError as error:
        os.close(fd)
        raise InfraFailure("output", f"cannot write to {path}: {error.filename}: {error.strerror}") from error
    try:
        yield output
    finally:
        output.close()


def send_digest(fd: int, result_text: str, nonce: str | None) -> None:
    """Write one line to the pipe of the judge's parent: the sha256 (hex) of result.json's bytes, and after a blank the
    nonce where there is one. Raises OSError."""
    os.set_blocking(fd, False)
    digest = hashlib.sha256(result_text.encode()).hexdigest()
    os.write(fd, f"{digest} {nonce or ''}".rstrip().encode() + b"\n")


def _remove_earlier_run(fd: int) -> None:
    """A folder of that name may be the user's: it is an error, not removed."""
    for name in os.listdir(fd):
        if name in (RESULT_NAME, PROGRESS_NAME, LOG_NAME):
            os.unlink(name, dir_fd=fd)
        elif _LEFTOVER.fullmatch(name):
            remove_hostile_tree(name, fd)


def _mode_of(folder: Path) -> int:
    return stat.S_IMODE(os.stat(folder, follow_symlinks=False).st_mode)


def _is_same(path: Path | str, fd: int, dir_fd: int | None = None) -> bool:
    """Does the path name what is open as `fd`?"""
    try:
        return os.path.samestat(os.stat(path, dir_fd=dir_fd, follow_symlinks=False), os.fstat(fd))
    except OSError:
        return False


@contextmanager
def opened(path: Path | str, flags: int, folder: int | None = None) -> Iterator[int]:
    """A descriptor to read `path` by, relative to the open `folder`. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def remove_hostile_tree(name: str, dir_fd: int) -> None:
    """Remove `name`, which lies in the folder `dir_fd`, with all that is in it; mounts stay. Raises OSError.

    Works however deep the tree is, whatever its modes and wherever its links lead: folders inside it are moved up next
    to it one by one and emptied there, so no path grows long and nothing recurses.
    """
    pending = [] if _unlink(name, dir_fd) else [name]
    while pending:
        folder = pending.pop()
        os.chmod(folder, stat.S_IRWXU, dir_fd=dir_fd)
        with opened(folder, _FOLDER, dir_fd) as fd:
            for entry in os.listdir(fd):
                if not _unlink(entry, fd):
                    os.chmod(entry, stat.S_IRWXU, dir_fd=fd)
                    pending.append(_random_name(name))
                    os.rename(entry, pending[-1], src_dir_fd=fd, dst_dir_fd=dir_fd)
        os.rmdir(folder, dir_fd=dir_fd)


def _random_name(name: str) -> str:
    """A hidden name that belongs to `name` and that no other process can have guessed."""
    return f".{name.lstrip('.')[:100]}.{secrets.token_hex(8)}"


def _unlink(name: str, dir_fd: int) -> bool:
    """False for a folder."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=dir_fd)
    except IsADirectoryError:
        return False
    return True
