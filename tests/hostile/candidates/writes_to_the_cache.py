"""Changes token bytes and rows for the runs to come, whatever their modes."""

EXPECTED = "ok"
from pathlib import Path

cache = Path(os.environ["ARSCHED_CACHE"])
for path in [*cache.rglob("*.npy"), *cache.rglob("*.u16"), *cache.rglob("manifest.json")]:
    with attempt(f"changing {path.name}"):
        path.chmod(0o666)
        with path.open("r+b") as file:
            file.write(file.read())
    with attempt(f"a new time of {path.name}"):
        os.utime(path, (1, 1))
    with attempt(f"an attribute of {path.name}"):
        os.setxattr(path, "user.left", b"for the next run")
with contextlib.suppress(OSError):  # the suite looks for it afterwards
    (cache / "left.bin").write_bytes(b"x")
scored_honestly()
