"""Reads what other candidates and the lab left: worktrees, ledger, spools, home folders, temporary files."""

EXPECTED = "ok"
import sys
from pathlib import Path

import harness

checkout = Path(harness.__file__).parents[1]
for name in (".git", "candidates", "scheduler", "docs", ".arsched"):
    with attempt(f"the checkout's {name}"):
        list((checkout / name).iterdir())
for folder in (
    os.path.expanduser("~root/.ssh"),
    "/home",
    "/root",
    "/tmp/ray",
    "/var/tmp",
    "/run",
    "/etc/shadow",
    "/boot",
):
    with attempt(folder):
        if os.path.isdir(folder) and not os.listdir(folder):
            raise FileNotFoundError("empty")
        with open(folder if os.path.isfile(folder) else next(os.scandir(folder)).path, "rb") as file:
            file.read(1)
with attempt("another run's folder"):
    cache = Path(os.environ["ARSCHED_CACHE"])  # of which a candidate sees the tokenizer
    others = [path for path in Path.cwd().parents[1].iterdir() if not Path.cwd().is_relative_to(path) and path != cache]
    if not others:
        raise FileNotFoundError("none in sight")
scored_honestly()
