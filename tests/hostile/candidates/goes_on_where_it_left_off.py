"""Leaves its tables for its next run in every place that may outlive a run. Judged twice; the second run finds none."""

EXPECTED = "ok"
RUNS = 2
import ctypes
import tempfile
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
places = ["/dev/shm", "/tmp", "/var/tmp", "/run", tempfile.gettempdir(), str(Path.home()), os.environ["XDG_CACHE_HOME"]]
for place in dict.fromkeys(places):
    path = Path(place, "arsched-left")
    with contextlib.suppress(OSError):
        print("REACHED:" if path.exists() else "not there:", path)
        path.write_bytes(b"tables")
segment = libc.shmget(0x41525343, 4096, 0o3600)
with attempt("a segment of the last run"):
    if libc.shmget(0x41525343, 4096, 0) >= 0 and segment < 0:
        pass
    else:
        raise FileNotFoundError("none")
with attempt("a key of the last run"):
    if libc.syscall(249, b"user", b"arsched-left", None, -4) < 0:
        libc.syscall(248, b"user", b"arsched-left", b"tables", 6, -4)
        raise FileNotFoundError("none")
scored_honestly()
