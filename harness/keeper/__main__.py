"""A process that keeps one command and all that it starts: nothing of it outlives the command, a limit or its owner.

`python -P -m harness.keeper OPTIONS -- COMMAND...`. Its owner holds the other end of a socket: the keeper writes one
JSON line there when the command is over, and ends everything at once when that end closes, however its owner died. It
lives in a PID namespace where the kernel grants one: then its own death takes everything along too. Elsewhere it is a
subreaper, and only a kill -9 of the keeper itself leaves anything behind. Does not hide files or the network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from harness.containment import Containment, ContainmentError, contain
from harness.keeper.log import Log
from harness.processes import Reaped, descendants, kill_descendants, reap_all

_CHUNK = 1 << 16
_UNTOLD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # it ends by its owner's word, not by a terminal's


def main() -> int:
    """Returns 0 whatever became of the command: that is in the report."""
    given = _arguments()
    owner = socket.socket(fileno=given.owner)
    for number in _UNTOLD:
        signal.signal(number, signal.SIG_IGN)
    try:
        return contain(given.containment, lambda containment: _keep(given, owner, containment))
    except ContainmentError as problem:
        _report(owner, "unkept", problem=str(problem))
        return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--owner", type=int, required=True, help="descriptor of the socket to the owner")
    parser.add_argument("--log", type=Path, required=True, help="where its output goes")
    parser.add_argument("--log-bytes", type=int, default=1 << 20)
    parser.add_argument("--limit-s", type=float, default=0.0, help="0: none")
    parser.add_argument("--through", action="store_true", help="the command gets the keeper's own input and output")
    parser.add_argument("--containment", choices=("auto", "namespace", "subreaper"), default="auto")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _keep(given: argparse.Namespace, owner: socket.socket, containment: Containment) -> int:
    """Run the command until it ends, its limit or its owner's end; then kill what is left and report."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    log = Log(given.log, given.log_bytes)
    try:
        process, output = _start(given)
    except OSError as problem:
        _report(owner, "unstartable", problem=str(problem))
        return 0
    end_at = time.monotonic() + given.limit_s if given.limit_s else None
    what, code = _watch(process.pid, output, log, woken, owner.fileno(), end_at)
    left = len(descendants(os.getpid())) if what == "exit" else 0
    dead = kill_descendants(lambda reaped: None, own_namespace=containment == "namespace")
    _drain(output, log)
    _report(owner, what if dead else "unkillable", code, left=left)
    return 0


def _start(given: argparse.Namespace) -> tuple[subprocess.Popen[bytes], int]:
    """The command, and the readable end of what it prints. A session of its own: its group can be no other's."""
    output, into = os.pipe()
    try:
        process = subprocess.Popen(
            given.command,
            stdin=None if given.through else subprocess.DEVNULL,
            stdout=None if given.through else into,
            stderr=into,
            start_new_session=True,
            preexec_fn=_as_started,
        )
    finally:
        os.close(into)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)  # so that the command's end is the end of its pipes
        os.dup2(nothing, 1)
    os.set_blocking(output, False)
    return process, output


def _as_started() -> None:
    for number in _UNTOLD:
        signal.signal(number, signal.SIG_DFL)


def _watch(pid: int, output: int, log: Log, woken: int, owner: int, end_at: float | None) -> tuple[str, int]:
    """What ended it ("exit", "timeout", "stopped") and its exit code, negative for a signal."""
    sources = [output, woken, owner]
    while True:
        left_s = None if end_at is None else max(0.0, end_at - time.monotonic())
        ready, _, _ = select.select(sources, [], [], left_s)
        if output in ready and not _take(output, log):
            sources.remove(output)
        if owner in ready:
            return "stopped", 0
        if woken in ready:
            os.read(woken, _CHUNK)
            status = _reap(pid)
            if status is not None:
                return "exit", os.waitstatus_to_exitcode(status)
        if end_at is not None and time.monotonic() >= end_at:
            return "timeout", 0


def _take(output: int, log: Log) -> bool:
    """False at the end of the output."""
    try:
        data = os.read(output, _CHUNK)
    except BlockingIOError:
        return True
    log.write(data)
    return bool(data)


def _drain(output: int, log: Log) -> None:
    """All writers are dead: what is left is what the pipe holds."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(output, _CHUNK):
            log.write(data)


def _reap(wanted: int) -> int | None:
    """Wait for whoever has ended, orphans included. The wanted one's wait status when it is among them."""
    found: list[Reaped] = []
    reap_all(found.append)
    return next((reaped.status for reaped in found if reaped.pid == wanted), None)


def _report(owner: socket.socket, what: str, code: int = 0, problem: str = "", left: int = 0) -> None:
    """`left`: how many processes were still there when the command had ended by itself."""
    said = {"what": what, "code": code, "problem": problem, "left": left}
    with contextlib.suppress(OSError):
        owner.sendall(json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
