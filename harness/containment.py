"""A PID namespace around a program, so that nothing that is spawned in it can outlive it; and death with the parent.

With or without root; signals are passed on. The fallback, a subreaper, keeps escaped grandchildren below the program
but cannot end them when that itself is killed -9. Hides neither files nor the network from what runs inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Literal, NoReturn

Containment = Literal["namespace", "subreaper"]
Wanted = Literal["auto", "namespace", "subreaper"]
Body = Callable[[Containment], int]

FORWARDED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38


_witness: socket.socket | None = None  # in a namespace: leads to a process outside that ends just after it


class ContainmentError(Exception):
    """A namespace was demanded and this machine does not grant one."""


def contain(wanted: Wanted, body: Body) -> int:
    """Run `body` contained and return its exit code.

    In a namespace `body` runs in a child process that is its PID 1; this process waits, passes signals on, and takes
    the whole namespace with it when it dies; 128 + its number stands for a signal that ended the child. Signals in
    FORWARDED_SIGNALS must be blocked or ignored by the caller and stay so in `body`. Raises ContainmentError.
    """
    if wanted != "subreaper":
        if namespaces_allowed():
            return _run_in_namespace(body)
        if wanted == "namespace":
            raise ContainmentError("this machine does not allow PID namespaces (try --containment subreaper)")
        sys.stderr.write("no PID namespaces here: processes that are hidden well survive a kill -9 of this one\n")
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    return body("subreaper")


def keep_open_until_all_dead(fd: int) -> None:
    """Keep what `fd` refers to open, locks on it included, until everything in this namespace is dead.

    PID 1 closes its own descriptors before the kernel ends the others. Without a namespace nothing happens.
    """
    if _witness is not None:
        socket.send_fds(_witness, [b"!"], [fd])


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to SIGKILL this process when the thread that started it ends; Linux only, else nothing happens.

    Exits when the parent is gone already. A process that knows the pid of its `parent` also notices an earlier end.
    """
    if sys.platform != "linux":
        return
    parent = parent or os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def forbid_new_privileges() -> None:
    """No program that this process or a child of it executes gains rights by setuid or file capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def namespaces_allowed() -> bool:
    """Whether a PID namespace can be made here: tried the whole way in a child, as half-way there is no way back."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            _unshare()
            if (inner := os.fork()) == 0:
                _mount_proc()
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _run_in_namespace(body: Body) -> int:
    witness, to_witness = _start_witness()  # before: what this process forks later is in the namespace
    _unshare()
    alive_read, alive_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(alive_write)
        _live_as_init(alive_read, body, to_witness)
    os.close(alive_read)
    with to_witness:
        init = os.pidfd_open(pid)
        socket.send_fds(to_witness, [b"!"], [init])
        os.close(init)
    os.write(alive_write, b"!")
    code = _wait_forwarding(pid)
    os.waitpid(witness, 0)
    return code


def _start_witness() -> tuple[int, socket.socket]:
    """A process outside the namespace that ends once the process has whose pidfd it is sent, and with that all others.

    Descriptors that are sent to it later stay open until then, which takes no reading of them. It outlives a kill -9
    of its parent.
    """
    ours, held = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        with contextlib.suppress(OSError):
            if sent := socket.recv_fds(held, 1, 1)[1]:  # nothing, where there came to be no namespace
                select.select(sent, [], [])
        os._exit(0)
    held.close()
    return pid, ours


def _live_as_init(alive_read: int, body: Body, to_witness: socket.socket) -> NoReturn:
    global _witness
    code, _witness = 1, to_witness
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.read(alive_read, 1) != b"!":  # the outer process died before the line above could take effect
            os._exit(1)
        os.close(alive_read)
        _mount_proc()
        code = body("namespace")
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait_forwarding(pid: int) -> int:
    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in FORWARDED_SIGNALS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED_SIGNALS)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        sys.stderr.write(f"killed by signal {-code}\n")
        return 128 - code
    return code


def _unshare() -> None:
    """New PID namespace for the children to come; without root, inside a new user namespace that keeps our ids."""
    if os.geteuid() == 0 and _libc().unshare(_CLONE_NEWPID) == 0:
        return
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc().unshare(_CLONE_NEWUSER | _CLONE_NEWPID), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


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
