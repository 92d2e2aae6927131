"""Sees an embedded Ray off: a small process that waits for its driver to end, however it ends, and cleans up.

`python -m scheduler.ray.sentinel FOLDER` reads its standard input until the driver closes it or dies. Then it
gives Ray's processes a moment, kills those that stay (its agents survive a killed driver by a minute) and removes the
folder. Ray's processes are the ones with open files in that folder, which is this Ray's alone. Standard library only.
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
PATIENCE_S = 10.0
POLL_S = 0.05


def start_sentinel(folder: Path) -> subprocess.Popen[bytes]:
    """A sentinel for an embedded Ray that will live in `folder`. Close its stdin to be rid of that Ray."""
    return subprocess.Popen(
        [sys.executable, "-S", str(Path(__file__).resolve()), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def holders(folder: Path, proc: Path = Path("/proc")) -> tuple[int, ...]:
    """Processes with an open file below the folder, this one and its living driver left out."""
    prefix = f"{folder}{os.sep}"
    pids = [int(entry.name) for entry in proc.glob("[0-9]*") if _holds(entry / "fd", prefix)]
    return tuple(pid for pid in pids if pid not in (os.getpid(), os.getppid()))


def sweep(folder: Path, grace_s: float = GRACE_S, patience_s: float = PATIENCE_S) -> None:
    """Return once nobody holds files below the folder, killing those that do after `grace_s`; remove the folder."""
    begun_at = time.monotonic()
    while (left := holders(folder)) and time.monotonic() - begun_at < patience_s:
        if time.monotonic() - begun_at > grace_s:
            for pid in left:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


def _holds(descriptors: Path, prefix: str) -> bool:
    try:
        return any(os.readlink(entry).startswith(prefix) for entry in os.scandir(descriptors))
    except OSError:  # it ended meanwhile, or is another user's
        return False


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    sweep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
