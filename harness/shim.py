"""The last thing that runs before train.py in its process: binds the candidate to its judge, confines it, then execs.

`python shim.py JUDGE_PID CPUS SOCKET_FD PROGRAM [ARGUMENT...]`: CPUS is a comma-separated list, or `-` for no
pinning. By the handshake's socket come the confinement (one line) and, once the judge has read what was reached, the
byte to go on. This process has one thread, and what it gives up cannot be taken back.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # last: it shadows no standard module

from harness.containment import die_with_parent
from harness.sandbox.confinement import Confinement, SandboxError, enter
from harness.sandbox.self_test import self_test

_FILE_BYTES = 16 << 30  # no single file of a candidate grows past this: a full disk would take its neighbours down
_OPEN_FILES = 65_536
_PROCESSES = 4096  # of its own user namespace; as root the kernel does not count, and the judge does
_FIRST_TO_KILL = "500"  # of 1000: for want of memory the kernel takes the candidate before a judge or a scheduler


def main(argv: list[str]) -> None:
    judge_pid, cpus, handshake_fd, *command = argv[1:]
    die_with_parent(int(judge_pid))
    with socket.socket(fileno=int(handshake_fd)) as handshake:
        handshake.set_inheritable(False)
        confinement = Confinement.from_json(handshake.makefile("r", encoding="utf-8").readline())
        _limit(confinement.level)
        if cpus != "-":
            os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
        with contextlib.suppress(PermissionError):  # a niced parent that is not root cannot be undone
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        handshake.sendall(json.dumps(_confine(confinement)).encode() + b"\n")
        if not handshake.recv(1):
            sys.exit("the judge did not let it begin")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execv(command[0], command)


def _confine(confinement: Confinement) -> dict[str, str]:
    try:
        reached = enter(confinement)
        self_test(confinement)
    except SandboxError as problem:
        return {"reached": "", "error": str(problem)}
    return {"reached": reached, "error": ""}


def _limit(level: str) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if level == "full":  # elsewhere all of the user's processes would count
        _lower(resource.RLIMIT_NPROC, _PROCESSES)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(_FIRST_TO_KILL)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    main(sys.argv)
