"""Asks for more processes, memory and disk than a run needs."""

EXPECTED = "invalid: processes"
import mmap
import time

children = []
with attempt("five thousand processes"):
    for _ in range(5000):
        if (pid := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        children.append(pid)
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
with attempt("a disk full of files"):
    for number in range(64):
        with open(f"fill{number}", "wb") as file:
            file.truncate(1 << 30)
            os.posix_fallocate(file.fileno(), 0, 1 << 30)
for number in range(64):
    with contextlib.suppress(OSError):
        os.unlink(f"fill{number}")
scored_honestly()
