"""The page on which the judge tells a candidate its budget under a work clock: read before every step, never asked for.

A sealed memfd of one page: seconds used, CPU seconds they were used in, and the rate of the one in the other since.
The candidate can only read it; what it says decides nothing, the judge counts for itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import zlib
from dataclasses import dataclass

_VALUES = struct.Struct("=ddd")
_CHECK = struct.Struct("=I")
_LOOKS = 1000  # at a page that is being written; a writer that died in the middle is not waited for
_LEAST_PACE = 0.5  # of the rate: a step that took time is seen to, however far the clocks are apart
_F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; the module fcntl does not name it


@dataclass(frozen=True, slots=True)
class WorkDone:
    """`used_s` of the budget had been used at `cpu_s` CPU seconds since START; each since then counts `rate`."""

    used_s: float = 0.0
    cpu_s: float = 0.0
    rate: float = 1.0

    def used_at(self, cpu_s: float) -> float:
        return self.used_s + self.rate * max(0.0, cpu_s - self.cpu_s)


class WorkPage:
    """The judge's side. `fd` is what a candidate gets: it cannot be written to, cut or grown."""

    def __init__(self) -> None:
        own = os.memfd_create("arsched-work", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(own, mmap.PAGESIZE)
            self._memory = mmap.mmap(own, mmap.PAGESIZE)  # sealed afterwards: this mapping alone may write
            self.write(WorkDone())
            with contextlib.suppress(OSError):  # an older kernel; without the seal the way it is opened must do
                fcntl.fcntl(own, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
            fcntl.fcntl(own, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self.fd = os.open(f"/proc/self/fd/{own}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(own)

    def write(self, done: WorkDone) -> None:
        values = _VALUES.pack(done.used_s, done.cpu_s, done.rate)
        self._memory[: _VALUES.size + _CHECK.size] = values + _CHECK.pack(zlib.crc32(values))

    def close(self) -> None:
        os.close(self.fd)
        self._memory.close()


class WorkReader:
    """The candidate's side, which takes the descriptor over."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ)
        os.close(fd)
        self._last = WorkDone()
        self._behind_s = self._cpu_s = self._used_s = 0.0

    def read(self) -> WorkDone:
        """What the judge wrote last; while it writes, what it wrote before."""
        for _ in range(_LOOKS):
            values, check = self._memory[: _VALUES.size], self._memory[_VALUES.size : _VALUES.size + _CHECK.size]
            if _CHECK.pack(zlib.crc32(values)) == check:
                self._last = WorkDone(*_VALUES.unpack(values))
                break
        return self._last

    def used_s(self, cpu_s: float) -> float:
        """Budget seconds used when this process has counted `cpu_s` CPU seconds of itself since START; never standing.

        The judge's clock counts what interrupts take and this process's does not: on a busy machine it falls behind, by
        tenths of a second over a run. By how much is seen whenever the judge has just written.
        """
        done = self.read()
        self._behind_s = max(self._behind_s, done.cpu_s - cpu_s)
        least_s = self._used_s + _LEAST_PACE * done.rate * (cpu_s - self._cpu_s)
        self._used_s, self._cpu_s = max(done.used_at(cpu_s + self._behind_s), least_s), cpu_s
        return self._used_s
