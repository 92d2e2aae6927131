"""A worktree whose branch is about to move: its index and files follow, unless an edit would be lost.

git's own two-way merge does the moving and refuses for tracked files; ignored files, which it would overwrite, are
looked after here. Moves no branch.
"""

from __future__ import annotations

import os
from pathlib import Path

from scheduler.domain.errors import GitProblem
from scheduler.git.plumbing import names, run_git, try_git

_HINT = "commit them on a branch of their own or stash them, then run the command again; nothing was changed"


def follow(home: Path, old: str, new: str) -> None:
    """Take index and files of a worktree from commit `old` to `new`. Raises GitProblem, changing nothing, if it cannot.

    Edits of files that are the same in both commits stay as they are.
    """
    _accept_what_is_new(home, old, new)
    _refuse_what_git_would_overwrite(home, old, new)
    try_git(home, "update-index", "-q", "--refresh")
    status, _, errors = try_git(home, "read-tree", "-m", "-u", old, new)
    if status != 0:
        said = "; ".join(part.strip().removeprefix("error: ") for part in errors.strip().splitlines())
        raise GitProblem(f"uncommitted changes in {home} are in the way: {said}", _HINT)


def _accept_what_is_new(home: Path, old: str, new: str) -> None:
    """A file that already is as in `new` (an earlier move was cut short) is no edit: tell the index so."""
    for path in _differing(home, old, new):
        unstaged = try_git(home, "diff-index", "--cached", "--quiet", old, "--", path)[0] == 0
        if unstaged and _is_as_in(home, path, new):
            run_git(home, "update-index", "--add", "--", path)


def _refuse_what_git_would_overwrite(home: Path, old: str, new: str) -> None:
    for path in _differing(home, old, new, "--diff-filter=A"):
        if os.path.lexists(home / path) and not _is_as_in(home, path, new):
            raise GitProblem(f"uncommitted changes in {home} are in the way: {path} would be overwritten", _HINT)


def _differing(home: Path, old: str, new: str, *options: str) -> tuple[str, ...]:
    return names(run_git(home, "diff-tree", "-r", "-z", "--name-only", "--no-renames", *options, old, new))


def _is_as_in(home: Path, path: str, commit: str) -> bool:
    file = home / path
    if file.is_symlink() or not file.is_file():
        return False
    status, wanted, _ = try_git(home, "rev-parse", "--verify", "--quiet", f"{commit}:{path}")
    return status == 0 and run_git(home, "hash-object", "--", path) == wanted
