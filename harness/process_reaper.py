"""Runs one command and ends all that it starts: nothing outlives the command, a time limit or the reaper's owner.

`python -P -m harness.process_reaper OPTIONS -- COMMAND...`. The owner holds the other end of a socket: the reaper
writes one JSON line there when the command has ended, and kills everything when that end closes. Only a kill -9 of a
reaper without a PID namespace leaves anything behind. With `--view` the command can change less than its user could
(harness.sandbox.guarded); its network stays.
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
from typing import BinaryIO

from harness.containment import FORWARDED_SIGNALS, Containment, ContainmentError, contain
from harness.processes import Reaped, descendants, kill_descendants, reap_all
from harness.sandbox.confinement import SandboxError
from harness.sandbox.guarded import GuardedView, guard

_CHUNK = 1 << 16


def main() -> int:
    """Returns 0 whatever became of the command: that is in the report."""
    options = _options()
    owner = socket.socket(fileno=options.owner)
    for number in FORWARDED_SIGNALS:  # it ends when its owner closes the socket, not by a terminal's signals
        signal.signal(number, signal.SIG_IGN)
    try:
        return contain(options.containment, lambda containment: _supervise(options, owner, containment))
    except ContainmentError as problem:
        _report(owner, "uncontained", problem=str(problem))
        return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--owner", type=int, required=True, help="descriptor of the socket to the owner")
    parser.add_argument("--log", type=Path, required=True, help="where its output goes")
    parser.add_argument("--log-bytes", type=int, default=1 << 20)
    parser.add_argument("--limit-s", type=float, default=0.0, help="0: none")
    parser.add_argument("--through", action="store_true", help="the command gets the reaper's own input and output")
    parser.add_argument("--containment", choices=("auto", "namespace", "subreaper"), default="auto")
    parser.add_argument("--view", type=GuardedView.from_json, help="JSON: what the command may not change or see")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _supervise(options: argparse.Namespace, owner: socket.socket, containment: Containment) -> int:
    """Run the command until it ends, its limit or its owner's end; then kill what is left and report."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    log = TailLog(options.log, options.log_bytes)
    try:
        if options.view is not None:
            guard(options.view)
        process, output = _start(options)
    except (OSError, SandboxError) as problem:
        _report(owner, "unstartable", problem=str(problem))
        return 0
    end_at = time.monotonic() + options.limit_s if options.limit_s else None
    what, code = _watch(process.pid, output, log, woken, owner.fileno(), end_at)
    left = len(descendants(os.getpid())) if what == "exit" else 0
    dead = kill_descendants(lambda reaped: None, own_namespace=containment == "namespace")
    with contextlib.suppress(BlockingIOError):  # all writers are dead: what is left is what the pipe holds
        while data := os.read(output, _CHUNK):
            log.write(data)
    _report(owner, what if dead else "unkillable", code, left=left)
    return 0


def _start(options: argparse.Namespace) -> tuple[subprocess.Popen[bytes], int]:
    """The command, and the readable end of what it prints. A session of its own: its group can be no other's."""
    output, into = os.pipe()
    try:
        process = subprocess.Popen(
            options.command,
            stdin=None if options.through else subprocess.DEVNULL,
            stdout=None if options.through else into,
            stderr=into,
            start_new_session=True,
            preexec_fn=_restore_signals,
        )
    finally:
        os.close(into)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)  # so that the command's end is the end of its pipes
        os.dup2(nothing, 1)
    os.set_blocking(output, False)
    return process, output


def _restore_signals() -> None:
    for number in FORWARDED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _watch(pid: int, output: int, log: TailLog, woken: int, owner: int, end_at: float | None) -> tuple[str, int]:
    """What ended it ("exit", "timeout", "stopped") and its exit code, negative for a signal."""
    sources = [output, woken, owner]
    while True:
        left_s = None if end_at is None else max(0.0, end_at - time.monotonic())
        ready, _, _ = select.select(sources, [], [], left_s)
        if output in ready:
            with contextlib.suppress(BlockingIOError):
                data = os.read(output, _CHUNK)
                log.write(data)
                if not data:
                    sources.remove(output)
        if owner in ready:
            return "stopped", 0
        if woken in ready:
            os.read(woken, _CHUNK)
            ended: list[Reaped] = []  # orphans included
            reap_all(ended.append)
            for reaped in ended:
                if reaped.pid == pid:
                    return "exit", reaped.exit_code
        if end_at is not None and time.monotonic() >= end_at:
            return "timeout", 0


def _report(owner: socket.socket, what: str, code: int = 0, problem: str = "", left: int = 0) -> None:
    """`left`: how many processes were still there when the command had ended by itself."""
    report = {"what": what, "code": code, "problem": problem, "left": left}
    with contextlib.suppress(OSError):
        owner.sendall(json.dumps(report).encode() + b"\n")


class TailLog:
    """A file that holds the last of what was written: between `limit` bytes and twice as many."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit = path, limit
        self._file: BinaryIO | None = path.open("wb", buffering=0)
        self._size = 0

    def write(self, data: bytes) -> None:
        """A full disk costs the log, not the command."""
        if self._file is None:
            return
        try:
            self._file.write(data)
            self._size += len(data)
            if self._size > 2 * self._limit:
                kept = self._path.read_bytes()[-self._limit :]
                self._file.seek(0)
                self._file.truncate()
                self._file.write(kept)
                self._size = len(kept)
        except OSError:
            self._file = None


if __name__ == "__main__":
    sys.exit(main())
