"""Branches and refs moved by compare-and-swap; a worktree that has the branch checked out follows, edits untouched."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from scheduler.domain.errors import GitProblem, LabProblem
from scheduler.git.checkout import follow
from scheduler.git.commits import resolve
from scheduler.git.plumbing import line, run_git, try_git
from scheduler.git.worktrees import list_worktrees


def branch_commit(folder: Path, name: str) -> str | None:
    """The commit a branch is at; None when there is no such branch."""
    status, output, _ = try_git(folder, "rev-parse", "--verify", "--quiet", f"refs/heads/{name}^{{commit}}")
    return line(output) if status == 0 else None


def create_branch(folder: Path, name: str, commit: str) -> None:
    """Raises LabProblem when the branch exists, GitProblem when git refuses the name."""
    check_name(folder, f"refs/heads/{name}")
    if branch_commit(folder, name) is not None:
        raise LabProblem(f"the branch {name!r} exists already", "choose another tag: arsched init --tag NAME")
    run_git(folder, "update-ref", "-m", "arsched: created", f"refs/heads/{name}", commit, "")


def keep_ref(folder: Path, tag: str, candidate_id: str, commit: str) -> str:
    """Keep a candidate's commit for ever under refs/arsched/<tag>/<id>. Doing it again changes nothing."""
    ref = f"refs/arsched/{tag}/{candidate_id}"
    check_name(folder, ref)
    run_git(folder, "update-ref", ref, commit)
    return ref


def kept_tags(folder: Path) -> tuple[str, ...]:
    """Tags of all labs that have ever kept a candidate here, sorted."""
    refs = run_git(folder, "for-each-ref", "--format=%(refname)", "refs/arsched/").decode().split()
    return tuple(sorted({ref.split("/")[2] for ref in refs}))


def check_name(folder: Path, ref: str) -> None:
    """Raises GitProblem for a name git does not take."""
    if try_git(folder, "check-ref-format", ref)[0] != 0:
        raise GitProblem(f"{ref!r} is no valid name in git", "use letters, digits, '-', '_' and '.'")


def move_branch(root: Path, name: str, new: str, old: str) -> str:
    """Move a branch from `old` to `new` if it still is at `old`. Caller holds the worktrees' lock.

    Where the branch is checked out the files follow first, as far as no edit is in the way, and the branch after:
    a crash in between is healed by calling again. Returns the folder that followed, "" when there is none.
    Raises LabProblem when the branch is elsewhere by now, GitProblem when an edit is in the way: then nothing changes.
    """
    current = branch_commit(root, name)
    if current != old:
        if current == new:
            return ""
        raise LabProblem(f"the branch {name!r} is at {(current or 'no commit')[:12]}, not at {old[:12]}", _MOVED)
    home = next((tree.path for tree in list_worktrees(root) if tree.branch == name and tree.path.is_dir()), None)
    if home is not None:
        follow(home, resolve(root, old), resolve(root, new))
    try:
        run_git(root, "update-ref", "-m", "arsched: promotion", f"refs/heads/{name}", new, old)
    except GitProblem:
        if home is not None:
            with suppress(GitProblem):
                follow(home, new, old)
        raise
    return str(home or "")


_MOVED = "somebody moved it; see `git log` of the branch, and put it back or start a new lab"
