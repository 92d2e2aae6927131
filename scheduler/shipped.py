"""What a repository for labs begins with: train.py, program.md and the page of candidates/, as this program ships them.

A checkout has them at its root, a wheel below share/arsched. Not covered: labs.
"""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

from scheduler.domain.errors import LabProblem
from scheduler.git import create_repo
from scheduler.lab import write_whole
from scheduler.node.code import CODE_ROOT

SHIPPED = ("train.py", "program.md", "candidates/README.md")
IGNORED = "/.arsched/\n/candidates/*\n!/candidates/README.md\n/report/\n"


def shipped_folder() -> Path:
    """Raises LabProblem where this installation lacks one of SHIPPED."""
    try:
        installed = metadata.files("arsched") or ()
    except metadata.PackageNotFoundError:
        installed = ()
    shared = [Path(str(file.locate())).parent for file in installed if file.parts[-2:] == ("arsched", SHIPPED[0])]
    for folder in (CODE_ROOT, *shared):
        if all((folder / name).is_file() for name in SHIPPED):
            return folder
    raise LabProblem(
        f"this installation of arsched in {CODE_ROOT} has no {SHIPPED[0]} to begin with",
        "install it anew (pip install --force-reinstall --no-deps arsched), or run it from a clone",
    )


def fill_repository(root: Path, shipped: Path, message: str) -> None:
    """Copy what is missing there of SHIPPED, and put it into the first commit of a repository. Raises GitProblem."""
    for name in SHIPPED:
        if not (root / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shipped / name, root / name)
    write_whole(root / ".gitignore", IGNORED)
    create_repo(root, message)


def may_begin(folder: Path) -> bool:
    """Whether it is empty and no repository holds it."""
    return not any(folder.iterdir()) and not any((parent / ".git").exists() for parent in folder.resolve().parents)


def begin_repository(folder: Path) -> None:
    """Make an empty folder a repository for labs. Raises LabProblem, GitProblem."""
    fill_repository(folder, shipped_folder(), "train.py and its manual, as arsched ships them")
