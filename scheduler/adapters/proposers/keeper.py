"""A process that keeps one command and all that it starts: nothing of it outlives the command, a limit or its owner.

Run as a program of its own (`python -I -S keeper.py OPTIONS -- COMMAND...`) with the standard library alone. Its owner
holds the other end of a socket: the keeper writes one JSON line there when the command is over, and ends everything
at once when that end closes, however its owner died. It lives in a PID namespace where the kernel grants one: then its
own death takes everything along too. Elsewhere it is a subreaper, and only a kill -9 of the keeper itself leaves
anything behind. Does not hide files or the network.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CHUNK = 1 << 16
_KILL_S = 10.0


class Log:
    """A file that holds the last of what was written: between `limit` bytes and twice as many."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit = path, limit
        self._file: BinaryIO | None = path.open("wb", buffering=0)
        self._size = 0

    def write(self, data: bytes) -> None:
        """A full disk costs the log, not the command."""
        try:
            self._write(data)
        except OSError:
            self._file = None

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        self._file.write(data)
        self._size += len(data)
        if self._size > 2 * self._limit:
            kept = self._path.read_bytes()[-self._limit :]
            self._file.seek(0)
            self._file.truncate()
            self._file.write(kept)
            self._size = len(kept)


def main() -> int:
    """Returns 0 whatever became of the command: that is in the report."""
    given = _arguments()
    owner = socket.socket(fileno=given.owner)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends by its owner's word, not by a terminal's
    if given.containment != "subreaper" and _namespace_works():
        return _run_in_namespace(lambda alive: _keep(given, owner, [owner.fileno(), alive]))
    if given.containment == "namespace":
        _report(owner, "unkept", 0, "this machine does not allow PID namespaces")
        return 0
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _keep(given, owner, [owner.fileno()])
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


def _keep(given: argparse.Namespace, owner: socket.socket, lifelines: list[int]) -> None:
    """Run the command until it ends, its limit or a lifeline's end; then kill what is left and report."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    log = Log(given.log, given.log_bytes)
    try:
        process, output = _start(given)
    except OSError as problem:
        _report(owner, "unstartable", 0, str(problem))
        return
    end_at = time.monotonic() + given.limit_s if given.limit_s else None
    what, code = _watch(process.pid, output, log, [woken, *lifelines], end_at)
    dead = _kill_all()
    _drain(output, log)
    _report(owner, what if dead else "unkillable", code, "")


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
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _watch(pid: int, output: int, log: Log, wakers: list[int], end_at: float | None) -> tuple[str, int]:
    """What ended it ("exit", "timeout", "stopped") and its exit code, negative for a signal."""
    sources = [output, *wakers]
    while True:
        left_s = None if end_at is None else max(0.0, end_at - time.monotonic())
        ready, _, _ = select.select(sources, [], [], left_s)
        if output in ready and not _take(output, log):
            sources.remove(output)
        if any(line in ready for line in wakers[1:]):
            return "stopped", 0
        if wakers[0] in ready:
            os.read(wakers[0], _CHUNK)
            code = _reap(pid)
            if code is not None:
                return "exit", code
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
    """Wait for whoever has ended, orphans included. The wanted one's exit code when it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == wanted:
                code = os.waitstatus_to_exitcode(status)
    return code


def _kill_all() -> bool:
    """SIGKILL until no child is left; False when something would not die."""
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline:
        if os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # everybody in the namespace, atomically
        else:
            _kill_tree()
        _reap(0)
        if not _has_children():
            return True
        time.sleep(0.002)
    return False


def _kill_tree() -> None:
    """Stop every descendant first, until no new one turns up: what is stopped cannot fork away from the kill."""
    below: set[tuple[int, int]] = set()
    while new := _descendants(os.getpid()).items() - below:
        _signal_all(new, signal.SIGSTOP)
        below |= new
    _signal_all(below, signal.SIGKILL)


def _signal_all(processes: set[tuple[int, int]], number: signal.Signals) -> None:
    """To each (pid, start time), unless the pid has passed to another: a fork chain uses up all pids in seconds."""
    for pid, started in processes:
        with contextlib.suppress(OSError, ValueError):
            handle = os.pidfd_open(pid)
            try:
                if _sighting(pid)[1] == started:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def _descendants(root: int) -> dict[int, int]:
    """pid -> start time of every process below root."""
    seen: dict[int, tuple[int, int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError):
            seen[int(name)] = _sighting(int(name))
    below = {root}
    while found := {pid for pid, (parent, _) in seen.items() if parent in below} - below:
        below |= found
    return {pid: seen[pid][1] for pid in below - {root}}


def _sighting(pid: int) -> tuple[int, int]:
    """(parent, start time in ticks since boot); the command name before them may hold spaces and parentheses."""
    text = Path("/proc", str(pid), "stat").read_bytes().decode("ascii", "replace")
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), int(fields[19])


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _report(owner: socket.socket, what: str, code: int, problem: str) -> None:
    with contextlib.suppress(OSError):
        owner.sendall(json.dumps({"what": what, "code": code, "problem": problem}).encode() + b"\n")


def _namespace_works() -> bool:
    """Try the whole way in a throw-away child: half-way there is no way back."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            _unshare()
            inner = os.fork()
            if inner == 0:
                _exit_after(_mount_proc)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _exit_after(action: Callable[[], None]) -> NoReturn:
    try:
        action()
    except OSError:
        os._exit(1)
    os._exit(0)


def _run_in_namespace(body: Callable[[int], None]) -> int:
    """`body` gets a descriptor that ends when this process does, and runs as the namespace's first process."""
    alive, held = os.pipe()
    _unshare()
    pid = os.fork()
    if pid == 0:
        os.close(held)
        _exit_after(lambda: _live_as_init(body, alive))
    os.close(alive)
    os.waitpid(pid, 0)
    return 0


def _live_as_init(body: Callable[[int], None], alive: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _mount_proc()
    body(alive)


def _unshare() -> None:
    """New PID namespace for the children to come; without root, inside a new user namespace that keeps our ids."""
    if os.geteuid() == 0 and _libc().unshare(_CLONE_NEWPID) == 0:
        return
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc().unshare(_CLONE_NEWUSER | _CLONE_NEWPID), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")


def _mount_proc() -> None:
    """Show this namespace's processes in /proc, to this namespace alone."""
    _check(_libc().unshare(_CLONE_NEWNS), "unshare")
    _check(_libc().mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount")
    _check(_libc().mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None), "mount")


def _prctl(option: int, value: int) -> None:
    _check(_libc().prctl(option, value, 0, 0, 0), "prctl")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(outcome: int, call: str) -> None:
    if outcome != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")


if __name__ == "__main__":
    sys.exit(main())
