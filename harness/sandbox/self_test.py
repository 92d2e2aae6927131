"""Forbidden acts that a confined process tries on itself before it runs anything: each must be refused.

They are chosen so that an unconfined process would get another answer, and leave nothing behind when one succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import resource
import socket
from collections.abc import Callable, Iterator

from harness.sandbox import kernel, seccomp
from harness.sandbox.confinement import Confinement, SandboxError

_REFUSED = {errno.EPERM, errno.EACCES}
# Refused, or not there in this process's view.
_OUT_OF_REACH = {*_REFUSED, errno.ENOENT, errno.ENOTDIR, errno.EROFS}
_NO_NETWORK = {*_REFUSED, errno.ENETUNREACH}
_NOWHERE = ("192.0.2.1", 9)  # reserved for documentation (RFC 5737)
_PEEK_DATA = 2


def self_test(confinement: Confinement) -> None:
    """Raises SandboxError naming what was possible although it is forbidden."""
    if confinement.level == "off":
        return
    open_doors = [name for name, act, refusals in _acts(confinement) if not _is_refused(act, refusals)]
    open_doors += _kept_rights()
    if open_doors:
        raise SandboxError(f"the sandbox does not hold: {', '.join(open_doors)}")


def _acts(confinement: Confinement) -> Iterator[tuple[str, Callable[[], object], set[int]]]:
    judge = confinement.judge_pid
    for path in confinement.unreadable:
        yield f"reading {path}", lambda path=path: _open(path, os.O_RDONLY), _OUT_OF_REACH  # type: ignore[misc]
    for path in confinement.unwritable:
        yield f"writing {path}", lambda path=path: _open(path, os.O_WRONLY), _OUT_OF_REACH  # type: ignore[misc]
    yield "the judge's memory", lambda: _open(f"/proc/{judge}/mem", os.O_RDONLY), _OUT_OF_REACH
    yield "a network connection", _connect, _NO_NETWORK
    yield "mount", lambda: kernel.mount("none", "/nowhere", "tmpfs", 0), _REFUSED
    yield "a new user namespace", lambda: kernel.unshare(kernel.CLONE_NEWUSER), _REFUSED
    yield "ptrace of the judge", lambda: _by_name("ptrace", _PEEK_DATA, judge, 0, 0), _REFUSED
    yield "limits of the judge", lambda: resource.prlimit(judge, resource.RLIMIT_NOFILE), _REFUSED
    yield "a signal to the judge", lambda: os.kill(judge, 0), {*_REFUSED, errno.ESRCH}


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))


def _connect() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # where a network is, it says EINPROGRESS at once
        sock.connect(_NOWHERE)


def _by_name(name: str, *arguments: int) -> None:
    kernel.call_number(seccomp.numbers(platform.machine())[name], name, *arguments)


def _is_refused(act: Callable[[], object], refusals: set[int]) -> bool:
    try:
        act()
    except OSError as error:
        return error.errno in refusals
    return False


def _kept_rights() -> Iterator[str]:
    status: dict[str, str] = {}
    with contextlib.suppress(OSError):
        status = kernel.status_fields()
    bounding = ("CapBnd",) if os.geteuid() == 0 else ()  # without uid 0 and with no_new_privs it gives nothing
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", *bounding):
        if status.get(name, "?").strip("0"):
            yield f"capabilities ({name} {status.get(name)})"
    if status.get("NoNewPrivs") != "1":
        yield "no_new_privs is not set"
    if status.get("Seccomp") != "2":
        yield "no seccomp filter"
