"""Process trees on Linux: who descends from a process, what CPU time the tree has used, and how to end it.

Descendants that called setsid or forked twice are re-parented to the subreaper, so still below it. CPU time is in
nanoseconds for living processes, in ticks for children they reaped; of short-lived children of a process that ignores
SIGCHLD, the time since the last reading is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_PARENT, _STARTED = 1, 19  # places in what _stat_fields gives


def cpu_clock_s(pid: int) -> float:
    """CPU seconds of one process with all its threads, dead ones included. Raises OSError when it is gone.

    The clock id of a foreign process is clock_getcpuclockid(3)'s: the complement of the pid, shifted, plus
    CPUCLOCK_SCHED.
    """
    return time.clock_gettime((~pid << 3) | 2)


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from `state` on; the command name before them may hold spaces and parentheses."""
    text = (_PROC / str(pid) / "stat").read_bytes().decode("ascii", "replace")
    return text[text.rindex(")") + 2 :].split()


def reaped_children_s(pid: int) -> float:
    """CPU seconds of the children `pid` has waited for, theirs included, in ticks. Raises OSError when it is gone."""
    fields = _stat_fields(pid)
    return (int(fields[13]) + int(fields[14])) * _TICK_S


def children(pid: int) -> list[int]:
    """Direct children of a process, quickly; the kernel may leave one out while the tree changes."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found.extend(int(word) for word in file.read().split())
    except FileNotFoundError:
        if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
            return [child for child, (parent, _) in _sightings().items() if parent == pid]
    except ProcessLookupError:  # it ended meanwhile: what was read of it is all there is
        pass
    return found


def _sightings() -> dict[int, tuple[int, int]]:
    """pid -> (parent pid, start time in ticks since boot). A pid is used again; with its start time it is not."""
    found: dict[int, tuple[int, int]] = {}
    for name in os.listdir(_PROC):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                fields = _stat_fields(int(name))
                found[int(name)] = int(fields[_PARENT]), int(fields[_STARTED])
    return found


def tree(root: int) -> Iterator[int]:
    """root and its living descendants, by following children."""
    pending = [root]
    while pending:
        pid = pending.pop()
        yield pid
        pending.extend(children(pid))


def descendants(root: int) -> dict[int, int]:
    """pid -> start time of every process below root, from one full pass over /proc; complete, where `tree` is quick."""
    seen = _sightings()
    below = {root}
    while found := {pid for pid, (parent, _) in seen.items() if parent in below} - below:
        below |= found
    return {pid: seen[pid][1] for pid in below - {root}}


class TreeClock:
    """CPU seconds of a process tree, with or without its root, never running backwards.

    `add_reaped` takes what the caller itself waited for (orphans re-parented to it), which no living process accounts
    for any more. When the total falls between two readings, a process left whose parent never waited for it: what had
    been seen of it stays counted.
    """

    def __init__(self, root: int, *, include_root: bool) -> None:
        self._root, self._include_root = root, include_root
        self._reaped_s = self._kept_s = self._last_s = 0.0

    def add_reaped(self, seconds: float) -> None:
        self._reaped_s += seconds

    def read_s(self) -> float:
        living = sum(_process_s(pid) for pid in tree(self._root) if self._include_root or pid != self._root)
        now_s = living + self._reaped_s + self._kept_s
        # Ticks round the time of a child that has just been waited for: below a tick it is not a loss.
        self._kept_s += max(0.0, self._last_s - now_s)
        self._last_s = max(now_s, self._last_s)
        return self._last_s


def _process_s(pid: int) -> float:
    try:
        return cpu_clock_s(pid) + reaped_children_s(pid)
    except (OSError, ValueError):
        return 0.0


@dataclass(frozen=True, slots=True)
class Reaped:
    """A process this one has waited for; `status` as os.wait4 gives it, CPU time with its own waited-for children."""

    pid: int
    status: int
    cpu_s: float
    peak_memory_mb: float

    @property
    def exit_code(self) -> int:
        """Negative for a signal."""
        return os.waitstatus_to_exitcode(self.status)


def kill_descendants(on_reaped: Callable[[Reaped], None], *, own_namespace: bool, timeout_s: float = 10.0) -> bool:
    """SIGKILL everything below this process until nothing is left, and reap it. False when something would not die.

    Needs this process to be a subreaper, or PID 1 of a namespace it made itself (`own_namespace`); otherwise a double
    fork escapes.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = _kill_namespace() if own_namespace and os.getpid() == 1 else _kill_tree(deadline)
        reap_all(on_reaped)
        if not found and not has_children():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def _kill_namespace() -> bool:
    """SIGKILL to all of this PID namespace but PID 1, atomically; True when there was any other process."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _kill_tree(deadline: float) -> bool:
    """Stop every descendant, until no new one turns up, then kill: what is stopped cannot fork away from the kill."""
    below: set[tuple[int, int]] = set()
    while time.monotonic() < deadline:
        if not _stop_in_sight(below):
            new = descendants(os.getpid()).items() - below
            if not new:
                break
            below |= new
            _signal_all(new, signal.SIGSTOP)
    _signal_all(below, signal.SIGKILL)
    return bool(below)


def _stop_in_sight(below: set[tuple[int, int]]) -> bool:
    """Stop at once what a quick look shows, and add it: a chain that forks and ends is gone after a pass over /proc."""
    grown = False
    for pid in tree(os.getpid()):
        with contextlib.suppress(OSError, ValueError):
            one = pid, int(_stat_fields(pid)[_STARTED])
            if pid != os.getpid() and one not in below:
                _signal_one(*one, signal.SIGSTOP)
                below.add(one)
                grown = True
    return grown


def _signal_all(processes: set[tuple[int, int]], number: signal.Signals) -> None:
    for pid, started in processes:
        with contextlib.suppress(OSError, ValueError):
            _signal_one(pid, started, number)


def _signal_one(pid: int, started: int, number: signal.Signals) -> None:
    """Unless the pid has passed to another: a chain of forks uses up all pids in seconds. Raises OSError."""
    handle = os.pidfd_open(pid)
    try:
        if int(_stat_fields(pid)[_STARTED]) == started:
            signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def has_children() -> bool:
    """Does this process have any child, living or waiting to be reaped?"""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def reap_all(on_reaped: Callable[[Reaped], None]) -> None:
    """Wait for every child that has already ended, without blocking."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        on_reaped(Reaped(pid, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
