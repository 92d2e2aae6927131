"""A seccomp filter: system calls that no train.py needs and that reach past what mounts and Landlock forbid.

`program` gives the BPF bytes for a machine from rules alone. Forbidden calls fail with an error and kill nothing.
Numbers: the kernel's tables of x86_64 and aarch64; from 424 on they are the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.sandbox import kernel

_X86_64 = (
    "ptrace 101 process_vm_readv 310 process_vm_writev 311 kcmp 312 bpf 321 perf_event_open 298 userfaultfd 323 "
    "keyctl 250 add_key 248 request_key 249 init_module 175 delete_module 176 finit_module 313 create_module 174 "
    "kexec_load 246 kexec_file_load 320 reboot 169 swapon 167 swapoff 168 acct 163 settimeofday 164 clock_settime 227 "
    "adjtimex 159 clock_adjtime 305 personality 135 open_by_handle_at 304 name_to_handle_at 303 ioctl 16 chroot 161 "
    "sched_setaffinity 203 prlimit64 302 setpriority 141 sched_setparam 142 sched_setscheduler 144 sched_setattr 314 "
    "ioprio_set 251 socket 41 socketpair 53 clone 56 unshare 272 setns 308 mount 165 umount2 166 pivot_root 155 "
    "shmget 29 msgget 68 semget 64 mq_open 240 setxattr 188 lsetxattr 189 fsetxattr 190 removexattr 197 "
    "lremovexattr 198 fremovexattr 199 utime 132 utimes 235 futimesat 261 utimensat 280 chmod 90 fchmod 91 "
    "fchmodat 268 chown 92 fchown 93 lchown 94 fchownat 260 kill 62 tkill 200 tgkill 234 rt_sigqueueinfo 129 "
    "rt_tgsigqueueinfo 297 syslog 103 quotactl 179 lookup_dcookie 212 iopl 172 ioperm 173 vhangup 153 "
    "sethostname 170 setdomainname 171 migrate_pages 256 move_pages 279 fanotify_init 300"
)
_AARCH64 = (
    "ptrace 117 process_vm_readv 270 process_vm_writev 271 kcmp 272 bpf 280 perf_event_open 241 userfaultfd 282 "
    "keyctl 219 add_key 217 request_key 218 init_module 105 delete_module 106 finit_module 273 kexec_load 104 "
    "kexec_file_load 294 reboot 142 swapon 224 swapoff 225 acct 89 settimeofday 170 clock_settime 112 adjtimex 171 "
    "clock_adjtime 266 personality 92 open_by_handle_at 265 name_to_handle_at 264 ioctl 29 chroot 51 "
    "sched_setaffinity 122 prlimit64 261 setpriority 140 sched_setparam 118 sched_setscheduler 119 sched_setattr 274 "
    "ioprio_set 30 socket 198 socketpair 199 clone 220 unshare 97 setns 268 mount 40 umount2 39 pivot_root 41 "
    "shmget 194 msgget 186 semget 190 mq_open 180 setxattr 5 lsetxattr 6 fsetxattr 7 removexattr 14 lremovexattr 15 "
    "fremovexattr 16 utimensat 88 fchmod 52 fchmodat 53 fchown 55 fchownat 54 kill 129 tkill 130 tgkill 131 "
    "rt_sigqueueinfo 138 rt_tgsigqueueinfo 240 syslog 116 quotactl 60 lookup_dcookie 18 vhangup 58 sethostname 161 "
    "setdomainname 162 migrate_pages 238 move_pages 239 fanotify_init 262"
)
_SHARED = (
    "pidfd_send_signal 424 io_uring_setup 425 io_uring_enter 426 io_uring_register 427 open_tree 428 move_mount 429 "
    "fsopen 430 fsconfig 431 fsmount 432 fspick 433 pidfd_open 434 clone3 435 pidfd_getfd 438 process_madvise 440 "
    "mount_setattr 442 quotactl_fd 443 fchmodat2 452 setxattrat 463 removexattrat 466 open_tree_attr 467 "
    "file_setattr 469"
)
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_CLONE_NEW = 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_PERSONALITIES = (0, 0xFFFFFFFF, 0x0040000)  # ordinary, ask, and without address randomisation

_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_MASK, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_SET_MODE_FILTER, _FLAG_SPEC_ALLOW = 1, 4  # without the flag older kernels slow every sandboxed thread down


@dataclass(frozen=True, slots=True)
class SyscallRule:
    """Calls of these names (between blanks) fail with `error`; with an `argument` (from 0) only if it passes the test.

    bits: any bit of the value set; in, not-in: equal to one of `values`, or to none. Compared are the low 32 bits,
    which are all that the kernel looks at in the arguments named here.
    """

    names: str
    error: int = errno.EPERM
    argument: int | None = None
    test: Literal["bits", "in", "not-in"] = "in"
    values: tuple[int, ...] = ()


_ALWAYS = (
    SyscallRule("clone3 io_uring_setup io_uring_enter io_uring_register", errno.ENOSYS),
    SyscallRule("clone", argument=0, test="bits", values=(_CLONE_NEW,)),
    SyscallRule("unshare setns mount umount2 pivot_root chroot open_tree open_tree_attr move_mount mount_setattr"),
    SyscallRule("fsopen fsconfig fsmount fspick fanotify_init quotactl quotactl_fd"),
    SyscallRule("ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp"),
    SyscallRule("bpf perf_event_open userfaultfd keyctl add_key request_key lookup_dcookie syslog"),
    SyscallRule("init_module finit_module delete_module create_module kexec_load kexec_file_load"),
    SyscallRule("reboot swapon swapoff acct settimeofday clock_settime adjtimex clock_adjtime"),
    SyscallRule("iopl ioperm vhangup sethostname setdomainname"),
    SyscallRule("open_by_handle_at name_to_handle_at sched_setaffinity file_setattr"),
    SyscallRule("personality", argument=0, test="not-in", values=_PERSONALITIES),
    SyscallRule("ioctl", argument=1, test="in", values=(_TIOCSTI, _TIOCLINUX)),
    SyscallRule("sched_setparam sched_setscheduler", argument=0, test="not-in", values=(0,)),
    # A judge gives a candidate SCHED_BATCH so that it cannot cut in on the judge's readings of the core: it stays so.
    SyscallRule("sched_setscheduler", argument=1, test="not-in", values=(os.SCHED_BATCH, os.SCHED_IDLE)),
    SyscallRule("sched_setattr"),
    SyscallRule("prlimit64 migrate_pages move_pages", argument=0, test="not-in", values=(0,)),
    SyscallRule("setpriority", argument=0, test="not-in", values=(0,)),  # of processes, not groups or users;
    SyscallRule("setpriority", argument=1, test="not-in", values=(0,)),  # and its own
    SyscallRule("ioprio_set", argument=0, test="not-in", values=(1,)),
    SyscallRule("ioprio_set", argument=1, test="not-in", values=(0,)),
)
# What mounts and namespaces would close: traces that outlive the run on files it may only read, and System V memory.
_WITHOUT_NAMESPACES = (
    SyscallRule("shmget msgget semget mq_open"),
    SyscallRule("setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat"),
    SyscallRule("utime utimes futimesat utimensat chown fchown lchown fchownat"),  # linkers need chmod
    SyscallRule("socket", argument=0, test="not-in", values=(_AF_UNIX,)),
)
_WITH_NAMESPACES = (
    SyscallRule("socket", argument=0, test="not-in", values=(_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)),
)


def rules(*, namespaces: bool, judge_pid: int, scoped_signals: bool) -> tuple[SyscallRule, ...]:
    """What a candidate may not call, with or without namespaces of its own; signals where Landlock does not see to it.

    Without a scope of signals the judge is named; other processes of the user's stay within reach.
    """
    pids = (judge_pid, -judge_pid & 0xFFFFFFFF, *(() if namespaces else (0xFFFFFFFF,)))  # it, its group, everyone
    by_pid = () if scoped_signals else (
        SyscallRule("kill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open", argument=0, test="in", values=pids),
        SyscallRule("tkill"),
    )  # fmt: skip
    return (*_ALWAYS, *(_WITH_NAMESPACES if namespaces else _WITHOUT_NAMESPACES), *by_pid)


def numbers(machine: str) -> dict[str, int]:
    """System call numbers by name. Raises OSError for a machine that is not known here."""
    tables = {"x86_64": _X86_64, "aarch64": _AARCH64}
    if machine not in tables:
        raise OSError(errno.ENOSYS, f"seccomp: {machine} is not known here")
    words = f"{tables[machine]} {_SHARED}".split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def program(given: Iterable[SyscallRule], machine: str) -> bytes:
    """The filter as BPF instructions of 8 bytes; a call that a machine does not have is left out. Raises OSError."""
    known = numbers(machine)
    unknown = {name for rule in given for name in rule.names.split()} - {*numbers("x86_64"), *numbers("aarch64")}
    if unknown:
        raise OSError(errno.EINVAL, f"seccomp: no number for {', '.join(sorted(unknown))}")
    code = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, _ARCHITECTURES[machine]), _fail(errno.ENOSYS), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        code += [(_JUMP_ABOVE, 0, 1, _X32_BIT), _fail(errno.ENOSYS)]
    for rule in given:
        for name in rule.names.split():
            if name in known:
                code += _block(known[name], rule)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _block(number: int, rule: SyscallRule) -> list[tuple[int, int, int, int]]:
    """Instructions for one call; they leave the call's number loaded when they do not decide it."""
    body = [_fail(rule.error)] if rule.argument is None else _test(rule, rule.argument)
    return [(_JUMP_EQUAL, 0, len(body), number), *body]


def _test(rule: SyscallRule, argument: int) -> list[tuple[int, int, int, int]]:
    values: Sequence[int] = rule.values
    jump = _JUMP_MASK if rule.test == "bits" else _JUMP_EQUAL
    load, reload, fail = (_LOAD, 0, 0, 16 + 8 * argument), (_LOAD, 0, 0, 0), _fail(rule.error)
    if rule.test == "not-in":  # any hit skips the failure
        hits = [(jump, len(values) - place, 0, value) for place, value in enumerate(values)]
        return [load, *hits, fail, reload]
    hits = [(jump, len(values) - 1 - place, 0, value) for place, value in enumerate(values)]
    return [load, *hits[:-1], (jump, 0, 1, values[-1]), fail, reload]


def _fail(error: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, _ERRNO | error


def install(code: bytes) -> None:
    """Bind this thread and its children to come to the filter. Needs no_new_privs. Raises OSError."""
    instructions = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a 16-bit length, then a pointer at its own alignment.
    header = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(instructions))
    kernel.call("seccomp", _SET_MODE_FILTER, _FLAG_SPEC_ALLOW, header)


def install_for(given: Sequence[SyscallRule]) -> None:
    """Compile for this machine and install. Raises OSError."""
    install(program(given, platform.machine()))
