"""The last thing that runs before train.py in its process: binds the candidate to its judge, then execs it.

`python shim.py JUDGE_PID CPUS PROGRAM [ARGUMENT...]`: CPUS is a comma-separated list, or `-` for no pinning. A sandbox
has its place here, before the exec: this process has one thread, and what it gives up cannot be taken back.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # last: it shadows no standard module

from harness.containment import die_with_parent, forbid_new_privileges

_FILE_BYTES = 16 << 30  # no single file of a candidate grows past this: a full disk would take its neighbours down
_OPEN_FILES = 65_536


def main(argv: list[str]) -> None:
    judge_pid, cpus, *command = argv[1:]
    die_with_parent(int(judge_pid))
    forbid_new_privileges()
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if cpus != "-":
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    with contextlib.suppress(PermissionError):  # a niced parent that is not root cannot be undone
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execv(command[0], command)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    main(sys.argv)
