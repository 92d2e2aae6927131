"""Verbs that go on at the head when the laptop closes: each in a session of its own, its output in files.

Whoever asks follows the files. The same command again follows the one that is at work, and hears the end of a search
that ended meanwhile. Not covered: what a verb does.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import select
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from scheduler.queue.runtime import exclusive

LOOK_S = 0.2
KEPT_S = 7 * 86400.0  # output of a job that has ended
AGAIN_BYTES = 4000  # of what was said before, for one who comes back
_LOCK_FD = 9  # a descriptor that every shell can hand on
_SCRIPT = 'job=$1; cd "$2" || exit; shift 2; "$@"; echo $? > "$job/code"'
_LOST = "error: the command {}\n\nhint: the same command again goes on\n"


@dataclass(frozen=True, slots=True)
class Job:
    """A folder with out, err, the exit code once there is one, and a lock that is held while anything of it lives."""

    folder: Path
    is_new: bool

    def code(self) -> int | None:
        """Its exit code once it has ended; 1 where it was killed."""
        is_free = _is_free(self.folder / "lock")  # looked at first: the code is written before it is free
        with suppress(OSError, ValueError):
            return int((self.folder / "code").read_text())
        return 1 if is_free else None

    def why_unknown(self) -> str:
        """Of one that has ended: what to say where it could not note its exit code, else ""."""
        try:
            return "" if (self.folder / "code").read_text() else _LOST.format("could not note its end: is a disk full?")
        except OSError:
            return _LOST.format("was killed on the head")


def start_or_join(
    folder: Path, words: Sequence[str], place: Path, environ: Mapping[str, str], *, listener: str, hear_end: bool
) -> Job:  # fmt: skip
    """Start a command in `place`, or find the same one at work. `hear_end`: also one whose end no listener confirmed.

    `listener` names who follows it from now on (`confirm`).
    """
    job = folder / hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / "start.lock", 60.0):
        if job.is_dir():
            unheard = hear_end and (job / "code").is_file() and not (job / "heard").exists()
            if unheard or Job(job, is_new=False).code() is None:
                (job / "listener").write_text(listener)
                return Job(job, is_new=False)
        _remove_old(folder, job)
        job.mkdir()
        (job / "listener").write_text(listener)
        _start(job, words, place, environ)
    return Job(job, is_new=True)


def _start(job: Path, words: Sequence[str], place: Path, environ: Mapping[str, str]) -> None:
    """Not as a child that is waited for: whoever started it may go."""
    with ExitStack() as files:
        out, err, lock = (files.enter_context((job / name).open("wb")) for name in ("out", "err", "lock"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        moved = [(os.POSIX_SPAWN_DUP2, one.fileno(), number) for one, number in ((out, 1), (err, 2), (lock, _LOCK_FD))]
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        line = ["sh", "-c", _SCRIPT, "sh", str(job), str(place), *words]
        os.posix_spawn("/bin/sh", line, dict(environ), file_actions=[nothing, *moved], setsid=True)


def _remove_old(folder: Path, job: Path) -> None:
    for old in folder.iterdir():
        with suppress(OSError):
            ended = old.is_dir() and _is_free(old / "lock")
            if old == job or (ended and time.time() - old.stat().st_mtime > KEPT_S):
                shutil.rmtree(old)


def confirm(folder: Path, listener: str) -> None:
    """The laptop has seen the end: what was written to a link that had gone was not heard."""
    for note in folder.glob("*/listener"):
        with suppress(OSError):
            if note.read_text() == listener:
                (note.parent / "heard").touch()


def follow(job: Job) -> int | None:
    """Hand on what it says to stdout and stderr until it has ended: its exit code. None: the laptop has gone first."""
    with (job.folder / "out").open("rb") as out, (job.folder / "err").open("rb") as err:
        if not job.is_new:
            skip_all_but_the_last(err)
        try:
            while True:
                code = job.code()  # before the copies, so that nothing said after them is lost
                _copy(err, 2)
                _copy(out, 1)  # the answer, which stands below what was said on the way
                if code is not None:
                    break
                if select.select([0], [], [], LOOK_S)[0] and not os.read(0, 4096):
                    return None
            os.write(2, job.why_unknown().encode())
            return code
        except BrokenPipeError:
            return None


def _copy(source: BinaryIO, number: int) -> None:
    while data := source.read(65536):
        while data:
            data = data[os.write(number, data) :]


def skip_all_but_the_last(file: BinaryIO) -> None:
    """Of what was said before, for one who comes back."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - AGAIN_BYTES))
    if size > AGAIN_BYTES:
        file.readline()


def _is_free(path: Path) -> bool:
    """Looked at with a shared lock: others who look are no holders, and NFS gives no other to a reader."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
