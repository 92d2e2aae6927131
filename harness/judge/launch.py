"""Starting train.py: pipe, socket, shim, session of its own; and what is known of it once it has ended.

Covers: the process and the judge's ends of its pipe and socket. Not covered: watching it (harness.judge.watch), killing
what it spawned (harness.processes).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from harness.cache import Cache
from harness.judge.clock import Timeline
from harness.judge.environment import candidate_environment
from harness.judge.order import Order
from harness.judge.scratch import Scratch
from harness.processes import Reaped, TreeClock, kill_descendants
from harness.protocol import socket_pair

_SHIM = Path(__file__).resolve().parent.parent / "shim.py"


class Candidate:
    """A train.py that has been started, from the judge's side; every child of the judge is it or descends from it."""

    def __init__(self, process: subprocess.Popen[bytes], log_fd: int, sock: socket.socket) -> None:
        self.timeline = Timeline()  # from here on time is the candidate's, also while the judge still imports torch
        self.pid = process.pid
        self.pidfd = os.pidfd_open(process.pid)
        self.log_fd = log_fd
        self.socket = sock
        # Orphans are re-parented to the judge, so the tree to time hangs from the judge, not from train.py.
        self.tree = TreeClock(os.getpid(), include_root=False)
        self.ended: Reaped | None = None
        self._process = process

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it lives."""
        return None if self.ended is None else os.waitstatus_to_exitcode(self.ended.status)

    def on_reaped(self, reaped: Reaped) -> None:
        """Book a process the judge has waited for: train.py itself, or an orphan it left behind."""
        self.tree.add_reaped(reaped.cpu_s)
        if reaped.pid == self.pid:
            self.ended = reaped
            self._process.returncode = self.exit_code or 0  # the judge waits for every child itself; Popen need not

    def end(self, *, own_namespace: bool) -> bool:
        """Kill it and all it spawned; False when something would not die."""
        return kill_descendants(self.on_reaped, own_namespace=own_namespace)


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
    return Candidate(process, log_read, ours)
