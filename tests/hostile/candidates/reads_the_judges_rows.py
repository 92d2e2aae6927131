"""Looks for validation, holdout and training rows by path."""

EXPECTED = "ok"
import sys
from pathlib import Path

places = [Path(os.environ["ARSCHED_CACHE"]), *Path.cwd().parents]
for name in ("val.u16", "holdout.u16", "rows.u16"):
    with attempt(f"a file called {name}"):
        found = next((path for place in places for path in place.glob(f"**/{name}")), None)
        if found is None:
            raise FileNotFoundError(name)
        found.read_bytes()
scored_honestly()
