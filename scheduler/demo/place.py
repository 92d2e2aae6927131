"""Where a demo happens: a numbered folder with a repository of its own, never the user's.

`<dir>/1/`, `<dir>/2/`, …: the last one is gone on with while it is unfinished and nobody else is at it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.errors import LabProblem
from scheduler.files import write_whole
from scheduler.git import create_repo
from scheduler.paths import LabPaths
from scheduler.queue.turn import Turn

COPIED = ("train.py", "program.md", "candidates/README.md")
IGNORED = "/.arsched/\n/candidates/*\n!/candidates/README.md\n/report/\n"
ATTEMPTS = 50  # numbers tried when other demos run at the same time


@dataclass(frozen=True, slots=True)
class Place:
    """`resumed`: an earlier demo was interrupted here."""

    root: Path
    resumed: bool


@contextmanager
def demo_place(parent: Path, checkout: Path) -> Iterator[Place]:
    """A demo's folder with its repository, held against other demos. Raises LabProblem, GitProblem."""
    missing = [name for name in COPIED if not (checkout / name).is_file()]
    if missing:
        raise LabProblem(
            f"the demo copies {', '.join(missing)} from a checkout of arsched, and {checkout} is none",
            "run it from a clone: git clone …, make demo",
        )
    root, turn = _take_folder(parent)
    try:
        resumed = LabPaths(root).ledger.is_file()
        _fill(root, checkout)
        yield Place(root, resumed)
    finally:
        turn.release()


def is_finished(root: Path) -> bool:
    return (LabPaths(root).report / "progress.png").is_file()


def _take_folder(parent: Path) -> tuple[Path, Turn]:
    number = max((int(entry.name) for entry in _entries(parent) if entry.name.isdecimal()), default=1)
    for _ in range(ATTEMPTS):
        root = parent / str(number)
        turn = Turn(LabPaths(root).state / "demo.lock")
        if not is_finished(root) and turn.try_take():
            return root.resolve(), turn
        number += 1
    raise LabProblem(f"no free folder for a demo in {parent}", f"remove old ones: rm -r {parent}")


def _entries(parent: Path) -> list[Path]:
    return list(parent.iterdir()) if parent.is_dir() else []


def _fill(root: Path, checkout: Path) -> None:
    """Copy what is not there yet, then commit: interrupted, it is done again."""
    for name in COPIED:
        if not (root / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkout / name, root / name)
    write_whole(root / ".gitignore", IGNORED)
    create_repo(root, "a lab for the demo")
