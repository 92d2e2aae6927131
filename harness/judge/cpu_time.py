"""CPU seconds of a candidate and of all that it starts, as the judge counts them, and of the cores that it runs on.

The kernel counts where it allows that: a perf task clock that every process and thread inherits, or a control group.
Elsewhere the tree is looked at a few times a second, which misses short-lived processes that none waits for; then
processes that were started and never seen are counted (`hidden`). How budgets are spent: harness.judge.clock.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import secrets
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.processes import TreeClock, tree

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_ATTR_BYTES = 112  # PERF_ATTR_SIZE_VER5
_SOFTWARE, _TASK_CLOCK = 1, 1  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 1, 1 << 5, 1 << 6  # bits of perf_event_attr; nothing else is asked for
_FLAGS_OFFSET = 40
_FD_CLOEXEC = 1 << 3  # PERF_FLAG_FD_CLOEXEC
_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_IDLE, _IO_WAIT, _STEAL, _FIELDS = 3, 4, 7, 8  # of a line of /proc/stat; the guests' share after them is in the first


class CpuClock(Protocol):
    """`name` is one of perf, cgroup, polled."""

    name: str

    def read_s(self) -> float:
        """CPU seconds so far, never fewer than before."""

    def add_reaped(self, seconds: float) -> None:
        """Book a process the judge itself has waited for, where the kernel does not."""

    def begin(self) -> None:
        """The budget starts: from now on `hidden` counts."""

    def hidden(self) -> int:
        """Processes that were started since `begin` and never seen; 0 where the kernel counts."""

    def close(self) -> None:
        """Give back what it holds, when everything it counts is dead."""


def open_cpu_clock(pid: int, *, own_namespace: bool) -> CpuClock:
    """The best clock this machine allows for a process that has started nothing yet, and for all it will start."""
    for kind in (TaskClock, CgroupClock):
        with contextlib.suppress(OSError):
            return kind(pid)
    return PolledClock(os.getpid(), own_namespace=own_namespace)


class TaskClock:
    """perf_event_open(2): the event is the judge's, so the candidate cannot stop it. Raises OSError."""

    name = "perf"

    def __init__(self, pid: int) -> None:
        number = _PERF_EVENT_OPEN.get(platform.machine())
        if number is None:
            raise OSError(f"no perf_event_open known for {platform.machine()}")
        # An ordinary user may count kernel time only where perf_event_paranoid is below 2; a task clock runs on anyway.
        for flags in (_INHERIT, _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HV):
            attributes = bytearray(_ATTR_BYTES)
            struct.pack_into("<IIQ", attributes, 0, _SOFTWARE, _ATTR_BYTES, _TASK_CLOCK)
            struct.pack_into("<Q", attributes, _FLAGS_OFFSET, flags)
            buffer = (ctypes.c_char * _ATTR_BYTES).from_buffer(attributes)
            self._fd = ctypes.CDLL(None, use_errno=True).syscall(number, buffer, pid, -1, -1, _FD_CLOEXEC)
            if self._fd >= 0:
                return
        error = ctypes.get_errno()
        raise OSError(error, f"perf_event_open: {os.strerror(error)}")

    def read_s(self) -> float:
        nanoseconds: int = struct.unpack("<Q", os.read(self._fd, 8))[0]
        return nanoseconds / 1e9

    def add_reaped(self, seconds: float) -> None:
        """The event has counted it."""

    def begin(self) -> None:
        """Nothing is hidden from it."""

    def hidden(self) -> int:
        return 0

    def close(self) -> None:
        os.close(self._fd)


class CgroupClock:
    """A control group of its own below the judge's, of version 2 or 1. Raises OSError where none can be made."""

    name = "cgroup"

    def __init__(self, pid: int, root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> None:
        place = _own_group(root, membership.read_text(encoding="ascii"))
        self._group = place / f"arsched-{secrets.token_hex(8)}"
        self._group.mkdir()
        try:
            (self._group / "cgroup.procs").write_text(str(pid))
            self.read_s()
        except (OSError, ValueError, IndexError) as error:
            with contextlib.suppress(OSError):
                self._group.rmdir()
            raise OSError(f"{self._group} does not count CPU time: {error}") from error

    def read_s(self) -> float:
        if (usage := self._group / "cpuacct.usage").exists():
            return int(usage.read_text()) / 1e9
        return int((self._group / "cpu.stat").read_text().split("usage_usec", 1)[1].split()[0]) / 1e6

    def add_reaped(self, seconds: float) -> None:
        """The group has counted it."""

    def begin(self) -> None:
        """Nothing is hidden from it."""

    def hidden(self) -> int:
        return 0

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a process that would not die is still in it
            self._group.rmdir()


def _own_group(root: Path, membership: str) -> Path:
    """The folder of the judge's own group: lines of /proc/self/cgroup are number:controllers:path. Raises OSError."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers and (root / "cgroup.controllers").exists():
            return root / path.lstrip("/")
        if "cpuacct" in controllers.split(","):
            return root / controllers / path.lstrip("/")
    raise OSError("no control group counts CPU time here")


class PolledClock:
    """The tree below the judge, looked at whenever the clock is read; ids tell how many processes were missed.

    Process ids are handed out in order within a PID namespace, and /proc/loadavg ends with the last one.
    """

    name = "polled"

    def __init__(self, root: int, *, own_namespace: bool) -> None:
        self._root, self._own_namespace = root, own_namespace
        # Orphans are re-parented to the judge, so the tree to time hangs from the judge, not from train.py.
        self._tree = TreeClock(root, include_root=False)
        self._first_id = _last_id()
        self._seen: set[str] = set()

    def read_s(self) -> float:
        seconds = self._tree.read_s()
        if self._own_namespace:
            for pid in tree(self._root):
                with contextlib.suppress(OSError):
                    self._seen.update(os.listdir(f"/proc/{pid}/task"))
        return seconds

    def add_reaped(self, seconds: float) -> None:
        self._tree.add_reaped(seconds)

    def begin(self) -> None:
        self._first_id = _last_id()

    def hidden(self) -> int:
        if not self._own_namespace:
            return 0
        started = _last_id() - self._first_id
        return max(0, started - sum(int(number) > self._first_id for number in self._seen))

    def close(self) -> None:
        """It holds nothing."""


def _last_id() -> int:
    return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[-1])


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Seconds since boot of some cores together: spent on processes and interrupts, stolen by the host, and all."""

    busy_s: float
    stolen_s: float
    total_s: float


def read_core_times(cpus: Sequence[int], proc: Path = _PROC) -> CoreTimes:
    """Of these cores, all when none is named; in steps of 10 ms. Raises OSError, ValueError or IndexError."""
    names = {f"cpu{number}" for number in cpus} or {"cpu"}
    lines = [line.split() for line in (proc / "stat").read_text(encoding="ascii").splitlines()]
    ticks = [[int(word) for word in words[1 : 1 + _FIELDS]] for words in lines if words and words[0] in names]
    total, stolen = sum(map(sum, ticks)), sum(line[_STEAL] for line in ticks)
    idle = sum(line[_IDLE] + line[_IO_WAIT] for line in ticks)
    per_s = os.sysconf("SC_CLK_TCK")
    return CoreTimes((total - stolen - idle) / per_s, stolen / per_s, total / per_s)


class OthersShare:
    """How much of a run's core goes to others: processes, interrupts, the host's other guests. From 0 to 1.

    By the kernel's count for the core, less what the run has used; 0 for a run with several cores or none of its own,
    of which nothing says where its threads meet others. Of a candidate's doing only what the kernel's own threads do
    for it passes for others'.
    """

    def __init__(self, cpus: Sequence[int], looks: int, proc: Path = _PROC) -> None:
        """`looks`: how many of them a share is over."""
        self._cpus, self._proc = cpus, proc
        self._seen: deque[tuple[float, float]] = deque(maxlen=looks + 1)

    def look(self, own_s: float) -> float:
        """The share since `looks` looks ago; `own_s`: CPU seconds of the judge and the candidate up to now."""
        if len(self._cpus) != 1:
            return 0.0
        with contextlib.suppress(OSError, ValueError, IndexError):
            times = read_core_times(self._cpus, self._proc)
            self._seen.append((times.busy_s + times.stolen_s, own_s))
            (used_s, ours_s), (used_before_s, ours_before_s) = self._seen[-1], self._seen[0]
            if used_s > used_before_s:
                return min(max(1 - (ours_s - ours_before_s) / (used_s - used_before_s), 0.0), 1.0)
        return 0.0
