"""The last thing that runs before train.py in its process: binds the candidate to its judge, then execs it.

Run as a script by the judge, never imported by anything else. Covers: death with the judge, no new privileges, resource
limits, CPU affinity, nice 0, default signals. A sandbox has its place here, after the limits and before the exec: this
process has one thread, and what is given up here cannot be taken back by what is exec'ed. Stdlib only.

Usage: python shim.py JUDGE_PID CPUS PROGRAM [ARGUMENT...]     CPUS is a comma-separated list, or `-` for no pinning.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_FILE_BYTES = 16 << 30  # no single file of a candidate grows past this: a full disk would take its neighbours down
_OPEN_FILES = 65_536


def main(argv: list[str]) -> None:
    judge_pid, cpus, *command = argv[1:]
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(judge_pid):  # the judge died before the line above could take effect
        sys.exit("the judge is gone")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _limit_resources()
    if cpus != "-":
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    with contextlib.suppress(PermissionError):  # a niced parent that is not root cannot be undone
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    _default_signals()
    os.execv(command[0], command)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def _limit_resources() -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


if __name__ == "__main__":
    main(sys.argv)
