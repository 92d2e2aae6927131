"""Starting train.py: pipe, socket, shim, session of its own; and what is known of it once it has ended.

Covers: the process and the judge's ends of its pipe and socket. Not covered: watching it (harness.judge.watch), killing
what it spawned (harness.processes).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.cache import Cache
from harness.judge.environment import candidate_environment
from harness.judge.order import Order
from harness.judge.scratch import Scratch
from harness.processes import Reaped
from harness.protocol import socket_pair

_SHIM = Path(__file__).resolve().parent.parent / "shim.py"


@dataclass(slots=True)
class Candidate:
    """A running train.py, from the judge's side. `ended` is set when it has been waited for."""

    pid: int
    pidfd: int
    log_fd: int
    socket: socket.socket
    process: subprocess.Popen[bytes]
    ended: Reaped | None = None

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it lives."""
        return None if self.ended is None else os.waitstatus_to_exitcode(self.ended.status)

    def has_ended(self, reaped: Reaped) -> None:
        self.ended = reaped
        self.process.returncode = self.exit_code or 0  # the judge waits for every child itself; Popen need not

    def kill(self) -> None:
        if self.ended is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


def launch(order: Order, cache: Cache, scratch: Scratch, lock_fd: int | None) -> Candidate:
    """Start train.py through the shim, in a session of its own, with an open end of the judge's socket."""
    ours, theirs = socket_pair()
    log_read, log_write = os.pipe()
    cpus = ",".join(map(str, order.cpus)) or "-"
    shim = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid()), cpus]
    process = subprocess.Popen(
        [*shim, sys.executable, "train.py"],
        cwd=scratch.work,
        env=candidate_environment(order, cache, scratch, theirs.fileno()),
        stdin=subprocess.DEVNULL,
        stdout=log_write,
        stderr=log_write,
        pass_fds=(theirs.fileno(), *(() if lock_fd is None else (lock_fd,))),
        start_new_session=True,  # a Ctrl-C at the terminal is for the judge to act on
    )
    os.close(log_write)
    theirs.close()
    return Candidate(process.pid, os.pidfd_open(process.pid), log_read, ours, process)
