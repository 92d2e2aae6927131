"""Changes the harness, its bytecode, site-packages and git's settings for the runs to come."""

EXPECTED = "ok"
import site
import sys
from pathlib import Path

import harness.scoring

package = Path(harness.__file__).parent
with attempt("a line in the harness"), open(harness.scoring.__file__, "a") as file:
    file.write("")
with attempt("bytecode of the harness"):
    folder = package / "__pycache__"
    folder.mkdir(exist_ok=True)
    (folder / "left.pyc").write_bytes(b"")
for folder in {*site.getsitepackages(), str(Path(np.__file__).parents[1])}:
    with attempt(f"a .pth file in {Path(folder).name}"):
        (Path(folder) / "left.pth").write_text("")
with attempt("a shared object in place"), open(next(Path(np.__file__).parent.rglob("*.so")), "r+b") as file:
    file.write(file.read(1))
with attempt("git's settings"), open(package.parent / ".git" / "config", "a") as file:
    file.write("")
with attempt("a program on the path"), open(sys.executable, "r+b") as file:
    file.write(file.read(1))
scored_honestly()
