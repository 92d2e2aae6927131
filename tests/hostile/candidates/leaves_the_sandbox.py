"""Mounts, enters and makes namespaces, and asks for every system call that no training needs."""

EXPECTED = "ok"
import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)


def call(what, *arguments):
    with attempt(what):
        if (
            libc.syscall(
                *(ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments)
            )
            < 0
        ):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if platform.machine() == "x86_64":
    call("a mount", 165, b"none", b"/tmp", b"tmpfs", 0, None)
    call("an unmount", 166, b"/proc", 2)
    call("a user namespace", 272, 0x10000000)
    call("a mount namespace", 272, 0x20000)
    call("another root", 161, b"/proc")
    call("a perf event", 298, ctypes.create_string_buffer(bytes([1, 0, 0, 0, 112]) + bytes(107)), 0, -1, -1, 0)
    call(
        "a BPF map", 321, 0, ctypes.create_string_buffer(bytes([2, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 1]) + bytes(59)), 72
    )
    call("a ring of system calls", 425, 8, ctypes.create_string_buffer(120))
    call("a fault handler", 323, 1)
    call("a key", 248, b"user", b"left", b"for the next run", 16, -4)
    call("the session's keys", 250, 1, None)
    call("a message queue", 240, b"left", 0o102, 0o600, None)
    call("another clock", 227, 0, ctypes.create_string_buffer(16))
    call("a file by its number", 304, -100, ctypes.create_string_buffer(16), 0)
with attempt("its cores"):
    os.sched_setaffinity(0, range(os.cpu_count()))
    if os.sched_getaffinity(0) == {next(iter(os.sched_getaffinity(0)))}:
        raise OSError("still one core")
with attempt("a better priority"):
    os.setpriority(os.PRIO_PROCESS, 0, -20)
with attempt("real-time scheduling"):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
with attempt("another user"):
    os.setuid(12345)
scored_honestly()
