"""Git worktrees: listed, added one at a time, looked into, committed.

Two `git worktree add` at once race for the repository's configuration, so a file lock serialises them. A worktree
that was deleted by hand is forgotten when its place is needed again. Removes nothing that is not committed, but for
`drop_worktree`, which is for scratch space.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from scheduler.domain.errors import CandidateRejected, GitProblem, LabProblem
from scheduler.git.commits import TRAIN_PY, commit_blob, resolve
from scheduler.git.plumbing import line, names, run_git, try_git

LOCK_TIMEOUT_S = 120.0
_BRANCHES = "refs/heads/"


@dataclass(frozen=True, slots=True)
class WorktreeState:
    """What a worktree holds. `changed` are the paths that differ from a base commit, committed or not."""

    head: str
    branch: str | None  # None: detached
    changed: tuple[str, ...]
    dirty: bool  # anything uncommitted, untracked files included


@dataclass(frozen=True, slots=True)
class Worktree:
    """One line of `git worktree list`: `head` is "" before the first commit, `branch` None when detached."""

    path: Path
    head: str
    branch: str | None
    bare: bool


@contextmanager
def worktrees_lock(common_dir: Path) -> Iterator[None]:
    """Held while worktrees or checked-out branches change. Released by the kernel if its holder dies."""
    lock = FileLock(common_dir / "arsched-worktrees.lock", timeout=LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout:
        raise GitProblem(f"the worktrees of {common_dir} stayed locked for {LOCK_TIMEOUT_S:g} s") from None
    except OSError as problem:
        raise GitProblem(f"cannot lock {common_dir}: {problem.strerror}", "is the repository writable?") from None
    try:
        yield
    finally:
        lock.release()


def list_worktrees(folder: Path) -> tuple[Worktree, ...]:
    """All worktrees of a repository, the main one first, deleted ones included."""
    status, output, _ = try_git(folder, "worktree", "list", "--porcelain", "-z")
    if status != 0:  # before git 2.36: a newline in a path is then misread, nothing else
        output = run_git(folder, "worktree", "list", "--porcelain").replace(b"\n", b"\0")
    return tuple(_parse_worktree(names(block)) for block in output.split(b"\0\0") if block.strip(b"\0"))


def add_worktree(root: Path, path: Path, commit: str, branch: str | None) -> None:
    """Check `commit` out in a new folder, on a new branch (None: detached). Caller holds the lock.

    A branch left behind at this very commit is used again. Raises GitProblem when the folder is not empty, or the
    branch is elsewhere or holds other commits.
    """
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise GitProblem(f"{path} exists already", "choose another name, or submit what is there")
    _forget_deleted(root, path)
    how = ["--detach"] if branch is None else _on_branch(root, branch, commit)
    what = commit if branch is None or how else branch
    run_git(root, "worktree", "add", "--quiet", *how, "--", str(path), what)


def remove_worktree(root: Path, path: Path) -> None:
    """Remove a worktree without edits. Its branch stays. Raises GitProblem when something in it is uncommitted."""
    if path.resolve() not in {worktree.path for worktree in list_worktrees(root)[1:]}:
        raise GitProblem(f"{path} is no worktree of {root}")
    status, _, errors = try_git(root, "worktree", "remove", "--", str(path.resolve()))
    if status != 0:
        raise GitProblem(f"{path} is kept: {errors.strip().removeprefix('fatal: ')}", "commit or delete what is in it")


def drop_worktree(root: Path, path: Path) -> None:
    """Delete a folder and git's memory of it, whatever is in it. Caller holds the lock. Raises GitProblem."""
    try:
        _delete(path)
    except OSError as problem:
        raise GitProblem(f"cannot delete {path}: {problem.strerror}", "delete it by hand") from None
    if path.parent.resolve() / path.name in {worktree.path for worktree in list_worktrees(root)[1:]}:
        run_git(root, "worktree", "remove", "--force", "--force", "--", str(path.parent.resolve() / path.name))


def is_worktree(path: Path) -> bool:
    """Whether `path` is the top of a worktree, not just a folder inside one."""
    if not path.is_dir():
        return False
    status, output, _ = try_git(path, "rev-parse", "--show-toplevel")
    return status == 0 and Path(line(output)).resolve() == path.resolve()


def inspect(path: Path, base: str) -> WorktreeState:
    """What a worktree holds, against the commit `base`. Raises LabProblem when `path` is no worktree."""
    if not is_worktree(path):
        raise LabProblem(f"{path} is no git worktree", "make one with `arsched new NAME`, or submit a single file")
    head = resolve(path, "HEAD")
    committed = names(run_git(path, "diff-tree", "-r", "-z", "--name-only", "--no-renames", base, head))
    uncommitted = changes(path)
    return WorktreeState(
        head=head,
        branch=branch_of(path),
        changed=tuple(sorted({*committed, *uncommitted})),
        dirty=bool(uncommitted),
    )


def branch_of(folder: Path) -> str | None:
    """The branch checked out in a worktree, without refs/heads/; None when detached."""
    status, output, _ = try_git(folder, "symbolic-ref", "--quiet", "HEAD")
    return line(output).removeprefix(_BRANCHES) if status == 0 else None


def changes(path: Path, *, untracked: bool = True) -> tuple[str, ...]:
    """Paths that are not as committed. Ignored files do not count."""
    every = f"--untracked-files={'all' if untracked else 'no'}"
    status = run_git(path, "status", "--porcelain=v1", "-z", every, "--no-renames", "--ignore-submodules=none")
    return tuple(entry[3:] for entry in names(status))


def commit_train_py(path: Path, message: str) -> str:
    """Commit train.py as it stands in the worktree, and nothing else that was changed or staged there.

    Returns the new commit, or HEAD when train.py is as committed. Raises CandidateRejected without a train.py.
    """
    source = path / TRAIN_PY
    if source.is_symlink() or not source.is_file():
        raise CandidateRejected(f"{source} is no regular file", "a candidate is one file, train.py")
    head = resolve(path, "HEAD")
    # With the filters of `git add`, so that git sees the file as unchanged afterwards (line ends, for one).
    blob = line(run_git(path, "hash-object", "-w", "--", TRAIN_PY))
    status, committed, _ = try_git(path, "rev-parse", "--verify", "--quiet", f"{head}:{TRAIN_PY}")
    if status == 0 and line(committed) == blob:
        return head
    commit = commit_blob(path, head, blob, message, {})
    run_git(path, "update-ref", "-m", "arsched: commit train.py", "HEAD", commit, head)
    # The commit stands; should the index be locked, `git status` only shows more than there is.
    try_git(path, "update-index", "--add", "--", TRAIN_PY)
    return commit


def _on_branch(root: Path, branch: str, commit: str) -> list[str]:
    """Arguments that create the branch; none when it is there already at this commit and free."""
    status, output, _ = try_git(root, "rev-parse", "--verify", "--quiet", f"{_BRANCHES}{branch}")
    if status != 0:
        return ["-b", branch, "--no-track"]
    if line(output) != resolve(root, commit):
        raise GitProblem(f"the branch {branch!r} exists and holds other commits", "choose another name")
    return []


def _delete(path: Path) -> None:
    """Folders without permissions are given them first; links are deleted, not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        path.chmod(stat.S_IRWXU)
        for folder, names, _ in os.walk(path):  # from the top down: each is opened before it is listed
            for inner in (Path(folder, name) for name in names):
                if not inner.is_symlink():
                    inner.chmod(stat.S_IRWXU)
        shutil.rmtree(path)


def _forget_deleted(root: Path, path: Path) -> None:
    """Drop git's memory of a worktree whose folder somebody deleted."""
    if not path.exists() and path.resolve() in {worktree.path for worktree in list_worktrees(root)[1:]}:
        run_git(root, "worktree", "remove", "--force", "--", str(path.resolve()))


def _parse_worktree(fields: tuple[str, ...]) -> Worktree:
    values = dict(field.partition(" ")[::2] for field in fields)
    branch = values.get("branch")
    head = values.get("HEAD", "")
    return Worktree(
        path=Path(values["worktree"]),
        head=head if head.strip("0") else "",
        branch=branch.removeprefix(_BRANCHES) if branch else None,
        bare="bare" in values,
    )
