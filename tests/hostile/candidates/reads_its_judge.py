"""Opens the judge's memory, environment, descriptors and maps, and attaches to it."""

EXPECTED = "ok"
import ctypes

judge = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
for name in ("mem", "environ", "maps", "auxv", "syscall"):
    with attempt(f"the judge's {name}"), open(f"/proc/{judge}/{name}", "rb") as file:
        file.read(1)
for name in ("fd/0", "fd/1", "cwd", "root", "exe"):
    with attempt(f"the judge's {name}"):
        os.readlink(f"/proc/{judge}/{name}")
with attempt("writing to the judge's memory"):
    open(f"/proc/{judge}/mem", "r+b").close()
with attempt("the judge's place with the out-of-memory killer"), open(f"/proc/{judge}/oom_score_adj", "w") as file:
    file.write("1000")
for what, number, argument in (("seizing", 0x4206, 0), ("attaching to", 16, 0)):
    with attempt(f"{what} the judge"):
        if libc.ptrace(number, judge, 0, argument):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
with attempt("a descriptor of the judge's"):
    if libc.syscall(438, os.pidfd_open(judge), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
with attempt("reading the judge's memory by a system call"):
    here, there = ctypes.create_string_buffer(8), 4096
    pieces = (ctypes.c_size_t * 4)(ctypes.addressof(here), 8, there, 8)
    if libc.syscall(310, judge, ctypes.byref(pieces), 1, ctypes.byref(pieces, 16), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
scored_honestly()
