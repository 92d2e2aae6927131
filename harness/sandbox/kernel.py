"""The kernel's calls that a sandbox is made of, by ctypes: mounts, namespaces, capabilities, prctl.

x86_64 and aarch64. Each raises OSError with the call's name. Not covered: Landlock and seccomp, which have files of
their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import platform
import socket
import struct

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 1 << 14, 1 << 18
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 4, 38, 39
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 23, 24, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
# Numbers from 424 on are the same on both.
_NUMBERS = {
    "x86_64": {"pivot_root": 155, "mount": 165, "umount2": 166, "capset": 126, "seccomp": 317, "sched_setattr": 314},
    "aarch64": {"pivot_root": 41, "mount": 40, "umount2": 39, "capset": 91, "seccomp": 277, "sched_setattr": 274},
}
_SHARED_NUMBERS = {
    "open_tree": 428, "move_mount": 429, "mount_setattr": 442,
    "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446,
}  # fmt: skip


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """One system call by name; integers go as longs. Raises OSError."""
    number = _SHARED_NUMBERS.get(name) or _NUMBERS.get(platform.machine(), {}).get(name)
    if number is None:
        raise OSError(errno.ENOSYS, f"{name}: not known on {platform.machine()}")
    return call_number(number, name, *arguments)


def call_number(number: int, name: str, *arguments: object) -> int:
    """One system call by its number; `name` is for the message. Raises OSError."""
    given = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    given += [ctypes.c_long(0)] * (6 - len(given))
    outcome: int = _libc().syscall(ctypes.c_long(number), *given)
    if outcome == -1:
        raise _last_error(name)
    return outcome


def _last_error(name: str) -> OSError:
    error = ctypes.get_errno()
    return OSError(error, f"{name}: {os.strerror(error)}")


def set_scheduling(pid: int, policy: int, slice_s: float) -> None:
    """Give a process (0: this thread) a class of os.SCHED_* for ordinary work, at the same priority.

    `slice_s`: how long it may run before others of its core's queue have a turn, from Linux 6.12 on; the kernel takes
    the shortest of those that wait. Raises OSError.
    """
    attributes = struct.pack(
        "=IIQiIQQQ", 48, policy, 0, os.getpriority(os.PRIO_PROCESS, pid), 0, int(slice_s * 1e9), 0, 0
    )
    call("sched_setattr", pid, attributes, 0)


def prctl(option: int, *arguments: int) -> int:
    """Raises OSError."""
    outcome: int = _libc().prctl(option, *[ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0)[:4]])
    if outcome == -1:
        raise _last_error("prctl")
    return outcome


def unshare(flags: int) -> None:
    """Raises OSError."""
    if _libc().unshare(ctypes.c_int(flags)) == -1:
        raise _last_error("unshare")


def map_own_ids(uid: int, gid: int) -> None:
    """The ids of a fresh user namespace: this process's own, and no other. Raises OSError."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Raises OSError."""
    texts = [os.fsencode(text) if text else None for text in (source, target, kind)]
    call("mount", *texts, flags, options.encode() if options else None)


def clone_mount(path: str) -> int:
    """A descriptor of a detached copy of what is mounted at `path`, with all mounts below. Raises OSError."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    return call("open_tree", _AT_FDCWD, os.fsencode(path), flags)


def attach_mount(fd: int, path: str) -> None:
    """Mount a detached copy at `path`, and close it. Raises OSError."""
    try:
        call("move_mount", fd, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(fd)


def restrict_mount(place: int | str, attributes: int, *, below: bool = True) -> None:
    """Set ATTR_ flags on a mount, by descriptor or path, and on all mounts below it. Raises OSError."""
    fields = struct.pack("4Q", attributes, 0, 0, 0)
    recursive = _AT_RECURSIVE if below else 0
    if isinstance(place, int):
        call("mount_setattr", place, b"", _AT_EMPTY_PATH | recursive, fields, len(fields))
    else:
        call("mount_setattr", _AT_FDCWD, os.fsencode(place), recursive, fields, len(fields))


def make_read_only(folder: str) -> None:
    """Nothing below `folder` can be changed through this mount namespace any more. Raises OSError."""
    fd = clone_mount(folder)
    restrict_mount(fd, ATTR_RDONLY)
    attach_mount(fd, folder)


def change_root(new_root: str) -> None:
    """Make a mount the root of this mount namespace and let go of the old one. Raises OSError."""
    os.chdir(new_root)
    call("pivot_root", b".", b".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def raise_loopback() -> None:
    """Give a fresh network namespace its 127.0.0.1. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def drop_capabilities() -> None:
    """Give up every capability for good, also what a later exec as uid 0 would bring. Raises OSError."""
    for capability in range(_LAST_CAPABILITY + 1):
        with contextlib.suppress(OSError):  # unknown to this kernel, or not ours to drop: `capabilities` tells
            prctl(_PR_CAPBSET_DROP, capability)
    with contextlib.suppress(OSError):
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    call("capset", header, struct.pack("6I", *[0] * 6))


def status_fields() -> dict[str, str]:
    """This thread's /proc status: what the kernel says of its capabilities, no_new_privs and seccomp."""
    with open("/proc/thread-self/status", encoding="utf-8", errors="replace") as file:
        pairs = [line.partition(":") for line in file]
    return {name: value.strip() for name, _, value in pairs}


def forbid_dumping() -> None:
    """No other process of the user's may read or write this one's memory, environment or descriptors by /proc."""
    prctl(PR_SET_DUMPABLE, 0)
