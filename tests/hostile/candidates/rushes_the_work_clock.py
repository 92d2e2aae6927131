"""Reaches for the work clock: the page its budget is on, its scheduling class, the core that is measured."""

EXPECTED = "ok"
CONTRACT = {"clock": "work"}
import ctypes
import mmap

start()
numbers = []
for number in os.listdir("/proc/self/fd"):
    with contextlib.suppress(OSError):
        if "arsched-work" in os.readlink(f"/proc/self/fd/{number}"):
            numbers.append(number)
with open("/proc/self/maps") as maps:
    [line] = [line for line in maps if "arsched-work" in line]
first, last = (int(word, 16) for word in line.split()[0].split("-"))
for number in numbers:
    with attempt("writing to the page"):
        os.write(int(number), bytes(28))
    with attempt("the page opened for writing"), open(f"/proc/self/fd/{number}", "r+b") as page:
        page.write(bytes(28))
        page.flush()
    with attempt("a writable map of it"):
        mmap.mmap(int(number), mmap.PAGESIZE)[:8] = bytes(8)
with attempt("more rights on the mapping"):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(first), ctypes.c_size_t(last - first), 3) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
with attempt("the ordinary scheduling class"):
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
with attempt("another core than the one that is measured"):
    os.sched_setaffinity(0, range(os.cpu_count()))
if os.sched_getscheduler(0) != os.SCHED_BATCH:
    print("REACHED: another scheduling class from the start")
if not numbers:
    print("REACHED: nothing, for the page was not found")
scored_honestly()
