"""Cleans up after an embedded Ray: a small process that waits for its driver to end, however it ends.

`python -S sentinel.py FOLDER` reads its standard input until the driver closes it or dies. Then it gives Ray's
processes a grace, kills those left (its agents survive a killed driver by a minute) and removes the folder. Ray's
processes are the ones with open files in that folder, which is this Ray's alone. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_S = 2.0
TIMEOUT_S = 10.0
POLL_S = 0.05


def start_sentinel(folder: Path) -> subprocess.Popen[bytes]:
    """A sentinel for an embedded Ray that will live in `folder`. Close its stdin to end that Ray."""
    return subprocess.Popen(
        [sys.executable, "-S", str(Path(__file__).resolve()), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def holders(folder: Path, proc: Path = Path("/proc")) -> list[int]:
    """Processes with an open file below the folder, this one and its living driver left out."""
    found = []
    for entry in proc.glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if any(os.readlink(fd).startswith(f"{folder}{os.sep}") for fd in os.scandir(entry / "fd")):
                found.append(int(entry.name))
    return [pid for pid in found if pid not in (os.getpid(), os.getppid())]


def sweep(folder: Path) -> None:
    """Return once no process holds files below the folder, killing those that do after GRACE_S; remove the folder."""
    begun_at = time.monotonic()
    while (left := holders(folder)) and time.monotonic() - begun_at < TIMEOUT_S:
        if time.monotonic() - begun_at > GRACE_S:
            for pid in left:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    sweep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
