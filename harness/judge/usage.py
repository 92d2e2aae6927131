"""What a candidate takes of the machine as a whole, looked at from outside: processes, and disk in its scratch folder.

The kernel's own limits are per process or per file, and count no processes of root's. Memory is the kernel's to bound.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.judge.report import JudgeVerdict
from harness.processes import descendants

MOST_PROCESSES = 4096
MOST_DISK_BYTES = 32 << 30
MOST_ENTRIES = 500_000
_DISK_INTERVAL_S = 10.0
_DISK_SHARE = 0.005  # of the judge's time, which is a core's that the candidate may want


class UsageWatch:
    """Cheap to ask several times a second: the disk is looked at a few times a minute."""

    def __init__(self, scratch: Path, *, own_namespace: bool) -> None:
        self._scratch, self._own_namespace = scratch, own_namespace
        self._next_disk_look_at = time.monotonic() + _DISK_INTERVAL_S

    def excess(self) -> JudgeVerdict | None:
        """The verdict on a candidate that takes too much; None while it does not."""
        if (count := self._processes()) > MOST_PROCESSES:
            return JudgeVerdict("invalid: processes", f"{count} processes at once (at most {MOST_PROCESSES})")
        if (now := time.monotonic()) < self._next_disk_look_at:
            return None
        size, entries = _size_of(self._scratch)
        self._next_disk_look_at = time.monotonic() + max(_DISK_INTERVAL_S, (time.monotonic() - now) / _DISK_SHARE)
        if size > MOST_DISK_BYTES or entries > MOST_ENTRIES:
            most = f"at most {MOST_DISK_BYTES >> 20} MiB and {MOST_ENTRIES}"
            return JudgeVerdict("invalid: disk", f"its files take {size >> 20} MiB in {entries} entries ({most})")
        return None

    def _processes(self) -> int:
        if self._own_namespace:
            return sum(name.isdigit() for name in os.listdir("/proc"))
        return len(descendants(os.getpid()))


def _size_of(folder: Path) -> tuple[int, int]:
    """Bytes on disk and entries below `folder`, links not followed; counting ends above the limits."""
    size, entries, pending = 0, 0, [str(folder)]
    while pending and size <= MOST_DISK_BYTES and entries <= MOST_ENTRIES:
        try:
            with os.scandir(pending.pop()) as found:
                for entry in found:
                    entries += 1
                    facts = entry.stat(follow_symlinks=False)
                    size += facts.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    if entries > MOST_ENTRIES:
                        break
        except OSError:  # it went away, or was locked: what is in a folder that cannot be read is not counted
            continue
    return size, entries
