"""What a process needs to run a queue: pool, clock, intervals, timeouts, Ctrl-C as a question, and its locks.

Ray is known to `connect_ray` alone. Locks are released by the kernel when their process dies; one holds as long as its
file is at its path. It is on the file's folder as well: with the file replaced no other process gets it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Lab
from scheduler.domain.slot import Pool

FINISH, STOP, LEAVE = 1, 2, 3
_SHOW_CURSOR = b"\x1b[?25h"


class StopReason(Enum):
    """Why a process left the queue it ran or watched. PAUSED: the lab is paused, and what ran is finished.

    STOPPED: it was asked to end by the stop file, and what ran is finished. INTERRUPTED: by Ctrl-C or another signal.
    """

    DONE = "done"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class PoolHandle:
    """`detached`: runs go on when this process leaves (a cluster); an embedded Ray ends with it.

    `kept`: it is closed by whoever opened it, not at the end of this run of the queue. `address`: a cluster's head.
    """

    pool: Pool
    detached: bool
    kept: bool = False
    address: str = ""


class PoolOptions(NamedTuple):
    """`address` None: this machine alone. `slots` None: all there are."""

    address: str | None = None
    slots: int | None = None


Connect = Callable[[Lab, PoolOptions, Callable[[str], None]], PoolHandle]


def connect_ray(lab: Lab, options: PoolOptions, log: Callable[[str], None]) -> PoolHandle:
    """Join or start Ray and its slots. Raises PoolProblem."""
    from scheduler.ray.pool import RayPool

    where = (options.address, options.slots)
    pool = RayPool.connect(*where, lab.contract_json, lab.lab_id, sandbox=lab.sandbox, log=log)
    return PoolHandle(pool, detached=pool.detached, address=pool.address)


_STARTED = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
_set_back: list[float] = []  # seconds that the clock was before what was recorded


def steady_time() -> float:
    """Seconds since the epoch, as this machine's clock had it when the program started and as time passed since.

    Setting the clock moves no lease, pause or budget of a process that runs; time asleep counts.
    """
    return _STARTED + sum(_set_back) + time.clock_gettime(time.CLOCK_BOOTTIME)


@contextmanager
def not_before(recorded_at: float) -> Iterator[None]:
    """Within, steady_time() is that or later.

    Where the clock was set back since, what is made now would be older than the search that made it.
    """
    behind_s = max(0.0, recorded_at - steady_time())
    _set_back.append(behind_s)
    try:
        yield
    finally:
        _set_back.remove(behind_s)


@dataclass(frozen=True, slots=True)
class PollIntervals:
    """Seconds between two rounds of the loop, decisions without news, live files, and copies of the ledger."""

    round_s: float = 0.1
    decide_s: float = 2.0
    show_s: float = 1.0
    back_up_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. A lease is renewed while its slot answers; a run that no slot knows of is queued again."""

    lease_s: float = 120.0
    unknown_s: float = 15.0  # a slot that answers and does not mention a run it should have
    no_slot_s: float = 600.0  # how long a lab that has work waits for a usable slot to come back


@dataclass(frozen=True, slots=True)
class Runtime:
    """`clock` gives seconds since the epoch; `sleep` lets them pass. `pid`: the process that a person started.

    `wall`: the time that other processes read, which may be set.
    """

    options: PoolOptions = field(default_factory=PoolOptions)
    connect: Connect = connect_ray
    clock: Callable[[], float] = steady_time
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    intervals: PollIntervals = field(default_factory=PollIntervals)
    timeouts: Timeouts = field(default_factory=Timeouts)
    pid: int = field(default_factory=os.getpid)


class Interrupt:
    """A context manager that counts signals while it is entered, in the main thread.

    SIGINT once: place nothing new, let what runs finish. Twice (or SIGTERM, SIGHUP): stop what runs now. Three times:
    leave at once, whatever is left undone; the ledger is whole at every time.
    """

    def __init__(self) -> None:
        self.level = 0
        self.by_request = False
        self._before: dict[int, Any] = {}

    @property
    def finishing(self) -> bool:
        return self.level >= FINISH

    @property
    def stopping(self) -> bool:
        return self.level >= STOP

    def finish(self) -> None:
        """What Ctrl-C once asks for, asked for in another way; then `by_request`, unless a signal was there before."""
        self.by_request |= self.level < FINISH
        self.level = max(FINISH, self.level)

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._before[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.level = self.level + 1 if number == signal.SIGINT else max(STOP, self.level + 1)
        if self.level >= LEAVE:
            _show_cursor()
            os._exit(130)


def _show_cursor() -> None:
    """On the terminal itself: stderr may lead to Ray's log meanwhile."""
    with suppress(OSError):
        os.write(os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY), _SHOW_CURSOR)


SUBMIT_LOCK_S = 120.0  # how long one waits for another that adds candidates
POLL_S = 0.05


class SchedulerLock:
    """Acquired with `try_take`, freed by `release` and by the death of its process.

    `with_folder`: the folder of the file is locked as well, so that who deletes the file opens the lock to no other.
    """

    def __init__(self, path: Path, *, with_folder: bool = True) -> None:
        self._path, self._with_folder = path, with_folder
        self._descriptor: int | None = None
        self._folder: int | None = None

    def try_take(self) -> bool:
        """Whether the lock is ours now; never waits. Raises LabProblem when the disk refuses the lock."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._descriptor is None and self._with_folder and not self._take_folder():
                return False
            while self._descriptor is None:
                descriptor = _lock(self._path, os.O_RDWR | os.O_CREAT)
                if descriptor is None:
                    self.release()
                    return False
                if self._is_at_path(descriptor):
                    self._descriptor = descriptor
                else:  # deleted between opening and locking
                    os.close(descriptor)
        except OSError as problem:
            self.release()
            hint = "is the repository writable?"
            raise LabProblem(f"{self._path} cannot be locked: {problem.strerror or problem}", hint) from None
        return True

    def is_held(self) -> bool:
        """Whether it was taken, and its file is still the one at its path."""
        return self._descriptor is not None and self._is_at_path(self._descriptor)

    def ensure_held(self) -> None:
        """Raises LabProblem when the file was deleted, moved or replaced: another process may have the lock, too."""
        if not self.is_held():
            again = "and run the same command again: what was recorded is in the ledger next to it"
            hint = f"stop whatever cleans up there, {again}"
            raise LabProblem(f"{self._path} was deleted or replaced while this command held its lock", hint)

    def release(self) -> None:
        for descriptor in (self._descriptor, self._folder):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._folder = None

    def _take_folder(self) -> bool:
        """True as well where the file system locks no folders (NFS): the file alone must do."""
        try:
            self._folder = _lock(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return True
        return self._folder is not None

    def _is_at_path(self, descriptor: int) -> bool:
        """An inode that is open is not used again, so the comparison cannot be fooled."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except OSError:
            return False


@contextmanager
def exclusive(path: Path, timeout_s: float) -> Iterator[SchedulerLock]:
    """Hold a lock for a short time, waiting for others.

    Raises LabProblem when they take longer than `timeout_s`, and at the end when the lock was lost meanwhile.
    """
    lock, deadline = SchedulerLock(path), time.monotonic() + timeout_s
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


def _lock(path: Path, how: int) -> int | None:
    """An open descriptor with the lock on its file; None while another process has it."""
    descriptor = os.open(path, how, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as problem:
        os.close(descriptor)
        if isinstance(problem, BlockingIOError):
            return None
        raise
    return descriptor
