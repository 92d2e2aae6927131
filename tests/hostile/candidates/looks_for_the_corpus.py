"""Looks for the text of its contract among the installed packages."""

EXPECTED = "ok"
import sys
from pathlib import Path

for folder in sys.path:
    with attempt(f"the corpus in {Path(folder).name}"):
        found = next(Path(folder, "ray").rglob("*.py"), None)
        if found is None:
            raise FileNotFoundError("nothing there")
        found.read_bytes()
scored_honestly()
