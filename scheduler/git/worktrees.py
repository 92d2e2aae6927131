"""Git worktrees: listed, added one at a time, looked into, committed, moved along with their branch.

Two `git worktree add` at once race for the repository's configuration, so a file lock serialises them. A worktree
that was deleted by hand is forgotten when its place is needed again. Removes nothing that is not committed, but for
`drop_worktree`, which is for scratch space.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from harness.files import write_atomic
from scheduler.domain.errors import CandidateRejected, GitProblem, LabProblem
from scheduler.git import commits

LOCK_TIMEOUT_S = 120.0
_BRANCHES = "refs/heads/"
_HINT = "commit them on a branch of their own or stash them, then run the command again; nothing was changed"


@dataclass(frozen=True, slots=True)
class WorktreeState:
    """What a worktree holds. `changed` are the paths that differ from the commit `base`, committed or not."""

    head: str
    branch: str | None  # None: detached
    base: str
    changed: tuple[str, ...]
    dirty: bool  # anything uncommitted, untracked files included
    others_committed: bool = False  # HEAD differs from `base` in more than train.py


@dataclass(frozen=True, slots=True)
class Worktree:
    """One line of `git worktree list`; `branch` is None when detached."""

    path: Path
    branch: str | None
    bare: bool


@contextmanager
def worktrees_lock(common_dir: Path) -> Iterator[None]:
    """Held while worktrees or checked-out branches change. Released by the kernel if its holder dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(common_dir / "arsched-worktrees.lock", timeout=LOCK_TIMEOUT_S)
    try:
        held = lock.acquire()
    except Timeout:
        raise GitProblem(f"the worktrees of {common_dir} stayed locked for {LOCK_TIMEOUT_S:g} s") from None
    except OSError as problem:
        raise GitProblem(f"cannot lock {common_dir}: {problem.strerror}", "is the repository writable?") from None
    with held:
        yield


def list_worktrees(root: Path) -> tuple[Worktree, ...]:
    """All worktrees of the repository whose main one is `root`, that one first, deleted ones included.

    In a bare repository, which has no main one, the repository itself comes first.
    """
    status, output, _ = commits.try_git(root, "worktree", "list", "--porcelain", "-z")
    if status != 0:  # before git 2.36: a newline in a path is then misread, nothing else
        output = commits.run_git(root, "worktree", "list", "--porcelain").replace(b"\n", b"\0")
    found = []
    for block in filter(None, output.split(b"\0\0")):
        values = dict(field.partition(" ")[::2] for field in commits.names(block))
        branch = values["branch"].removeprefix(_BRANCHES) if "branch" in values else None
        found.append(Worktree(Path(values["worktree"]), branch, "bare" in values))
    if not found[0].bare:  # of a submodule, or a git folder kept elsewhere, git names that folder instead
        found[0] = replace(found[0], path=root)
    return tuple(found)


MAIN = Path("arsched", "worktree")  # in the git folder: the lab's work tree, where git itself does not know it


def find_main(common: Path, start: Path) -> Path:
    """The work tree of a lab, from its repository's git folder and a folder in one of its worktrees.

    In this order: where git says that it is, where `keep_main` says, the outermost worktree around `start`. Each only
    if its .git leads back. Raises LabProblem when there is none.
    """
    bare, configured = commits.work_tree_settings(common)
    own = () if bare else (common / configured if configured else common.parent,)
    for top in own:
        if git_folder_of(top) == common:
            return top
    around = (start, *start.parents)[::-1]
    for top in (*_kept_main(common), *around):
        git_folder = git_folder_of(top)
        if git_folder and common_folder_of(git_folder) == common and not (bare and git_folder == common):
            return top
    raise LabProblem(f"the repository of {start} is bare", _no_work_tree(common))


def keep_main(root: Path, common: Path) -> None:
    """Note the work tree of a lab in the git folder, where git does not know it. Raises GitProblem."""
    bare, configured = commits.work_tree_settings(common)
    if not bare and git_folder_of(common / configured if configured else common.parent) == common:
        return
    path = common / MAIN
    try:
        write_atomic(path, os.fsencode(root), durable=False)
    except OSError as problem:
        raise GitProblem(f"cannot write {path}: {problem.strerror}", "is the repository writable?") from None


def _kept_main(common: Path) -> tuple[Path, ...]:
    try:
        return (Path(os.fsdecode((common / MAIN).read_bytes())),)
    except OSError:
        return ()


def _no_work_tree(common: Path) -> str:
    """Worktrees of a bare repository, as they note themselves in it."""
    noted = [entry.read_text(errors="replace").strip() for entry in sorted(common.glob("worktrees/*/gitdir"))]
    there = [str(Path(path).parent) for path in noted if Path(path).exists()]
    if there:
        return f"run arsched in one of its worktrees: {', '.join(there[:3])}"
    return "arsched needs a work tree: git worktree add ../main, or a clone"


def add_worktree(root: Path, path: Path, commit: str, branch: str | None) -> None:
    """See `Repo.add_worktree`. Caller holds the lock."""
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise GitProblem(f"{path} exists already", "choose another name, or submit what is there")
    if not path.exists():  # perhaps deleted by hand
        _forget(root, path, "--force")
    how, what = ["--detach"], commit
    if branch is not None:
        left = commits.find(root, f"{_BRANCHES}{branch}")
        how, what = ([], branch) if left else (["-b", branch, "--no-track"], commit)
        if left and left != commits.resolve(root, commit):
            raise GitProblem(f"the branch {branch!r} exists and holds other commits", "choose another name")
    is_new = not path.exists()
    try:
        commits.run_git(root, "worktree", "add", "--quiet", *how, "--", str(path), what)
    except GitProblem:
        if is_new:  # what a full disk or a killed git left of it holds no work
            with suppress(GitProblem):
                drop_worktree(root, path)
        raise


def drop_worktree(root: Path, path: Path) -> None:
    """Delete a folder and git's memory of it, whatever is in it. Caller holds the lock. Raises GitProblem."""
    try:
        _delete(path)
    except OSError as problem:
        raise GitProblem(f"cannot delete {path}: {problem.strerror}", "delete it by hand") from None
    _forget(root, path, "--force", "--force")  # even where it was locked


def uncommitted(path: Path) -> tuple[str, tuple[str, ...]]:
    """HEAD of a worktree, and what would be lost with it: changed, untracked and ignored paths, and unfinished work.

    A folder of ignored files ends with "/". Raises GitProblem.
    """
    head, _, changed = _status(path, "--ignored=matching")
    hidden = commits.names(commits.run_git(path, "ls-files", "-v", "-z"))  # edits that `git status` is not to show
    changed += [name[2:] for name in hidden if name[:1].islower() or name[:1] == "S"]
    folder = git_folder_of(path) or path
    return head, (*changed, *(f"{name} in {folder}" for name in _UNFINISHED if (folder / name).exists()))


_UNFINISHED = ("locked", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "BISECT_LOG")


def remove_worktree(root: Path, path: Path, hidden: Path, may_go: Callable[[Path], bool]) -> bool:
    """See `Repo.remove_worktree`. Caller holds the lock."""
    try:
        path.rename(hidden)
        if not may_go(hidden):  # something was written meanwhile
            hidden.rename(path)
            return False
        _forget(root, path, "--force")
        _delete(hidden)
    except OSError as problem:
        raise GitProblem(f"cannot delete {path}: {problem.strerror}", "delete it by hand") from None
    return True


def _forget(root: Path, path: Path, *force: str) -> None:
    """Drop git's memory of a worktree whose folder is gone."""
    path = path.parent.resolve() / path.name
    if path in {worktree.path for worktree in list_worktrees(root)[1:]}:
        commits.run_git(root, "worktree", "remove", *force, "--", str(path))


def git_folder_of(folder: Path) -> Path | None:
    """The git folder of the worktree whose top is `folder`, as its .git names it; None when it is no top of one."""
    entry = folder / ".git"
    with suppress(OSError):
        if entry.is_dir():
            return entry.resolve()
        kind, _, target = os.fsdecode(entry.read_bytes()).rstrip("\n").partition(": ")
        if kind == "gitdir" and (folder / target).is_dir():
            return (folder / target).resolve()
    return None


def common_folder_of(git_folder: Path) -> Path:
    """Where the objects and refs are: the git folder of the main worktree."""
    with suppress(OSError):
        return (git_folder / os.fsdecode((git_folder / "commondir").read_bytes()).rstrip("\n")).resolve()
    return git_folder


def inspect(path: Path, bases: Sequence[str]) -> WorktreeState:
    """See `Repo.inspect`. Raises GitProblem when there is no commit."""
    head, branch, uncommitted = _status(path)
    base, committed = against(path, head, bases)
    others = bool(set(committed) - {commits.TRAIN_PY})
    return WorktreeState(head, branch, base, tuple(sorted({*committed, *uncommitted})), bool(uncommitted), others)


def against(root: Path, head: str, bases: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The last of `bases` that the commit `head` descends from (the last of all where of none), and what differs."""
    base = bases[-1]
    if head != base and len(bases) > 1:
        # What HEAD descends from, without what the oldest base does.
        ancestors = set(commits.run_git(root, "rev-list", head, "--not", f"{bases[0]}^@").decode().split())
        base = next((base for base in reversed(bases) if base in ancestors), base)
    return base, _differing(root, base, head) if head != base else ()


def commit_train_py(path: Path, message: str) -> tuple[str, bytes]:
    """Commit train.py as it stands in the worktree, and nothing else that was changed or staged there.

    Returns the new commit, or HEAD when train.py is as committed, and train.py as git has it (line ends may be
    git's). Raises CandidateRejected without a train.py.
    """
    source = path / commits.TRAIN_PY
    if source.is_symlink() or not source.is_file():
        raise CandidateRejected(f"{source} is no regular file", "a candidate is one file, train.py")
    # With the filters of `git add`, so that git sees the file as unchanged afterwards (line ends, for one).
    blob = commits.line(commits.run_git(path, "hash-object", "-w", "--", commits.TRAIN_PY))
    head, tree, committed, new = commits.read_objects(
        path, "HEAD^{commit}", "HEAD^{tree}", f"HEAD:{commits.TRAIN_PY}", blob
    )
    if head is None or tree is None or new is None:
        raise commits.no_commit(path)
    if committed is not None and committed.id == blob:
        return head.id, new.data
    commit = commits.make_commit(path, head.id, blob, tree.data, message)
    commits.run_git(path, "update-ref", "-m", "arsched: commit train.py", "HEAD", commit, head.id)
    # The commit stands; should the index be locked, `git status` only shows more than there is.
    commits.try_git(path, "update-index", "--add", "--", commits.TRAIN_PY)
    return commit, new.data


def follow(home: Path, old: str, new: str) -> None:
    """Take index and files of a worktree from commit `old` to `new`. Raises GitProblem, changing nothing, if it cannot.

    Edits of files that are the same in both commits stay as they are. git's own two-way merge does the moving and
    refuses for tracked files; ignored files, which it would overwrite, are looked after here. Moves no branch.
    """
    for path in _differing(home, old, new):
        # A file that already is as in `new` (an earlier move was cut short) is no edit: the index takes it over.
        unstaged = commits.try_git(home, "diff-index", "--cached", "--quiet", old, "--", path)[0] == 0
        if unstaged and _is_as_in(home, path, new):
            commits.run_git(home, "update-index", "--add", "--", path)
    for path in _differing(home, old, new, "--diff-filter=A"):
        if os.path.lexists(home / path) and not _is_as_in(home, path, new):
            raise GitProblem(f"uncommitted changes in {home} are in the way: {path} would be overwritten", _HINT)
    commits.try_git(home, "update-index", "-q", "--refresh")
    status, _, errors = commits.try_git(home, "read-tree", "-m", "-u", old, new)
    if status != 0:
        reasons = "; ".join(part.strip().removeprefix("error: ") for part in errors.strip().splitlines())
        raise GitProblem(f"uncommitted changes in {home} are in the way: {reasons}", _HINT)


def _status(path: Path, *more: str) -> tuple[str, str | None, list[str]]:
    """HEAD's commit, the branch, and the paths that are not as committed; ignored files only if asked for."""
    head, branch, changed = "", None, []
    options = ("--untracked-files=all", "--no-renames", "--ignore-submodules=dirty")
    for entry in commits.names(commits.run_git(path, "status", "--porcelain=v2", "--branch", "-z", *options, *more)):
        kind, _, rest = entry.partition(" ")
        if rest.startswith("branch.oid "):
            head = rest.removeprefix("branch.oid ")
        elif rest.startswith("branch.head "):
            branch = rest.removeprefix("branch.head ")
        elif kind in _FIELDS_BEFORE_PATH:
            changed.append(rest.split(" ", _FIELDS_BEFORE_PATH[kind])[-1])
    if head == "(initial)":
        raise commits.no_commit(path)
    return head, None if branch == "(detached)" else branch, changed


_FIELDS_BEFORE_PATH = {"1": 7, "u": 9, "?": 0, "!": 0}  # in git's porcelain format 2: changed, unmerged, new, ignored


def _differing(folder: Path, old: str, new: str, *options: str) -> tuple[str, ...]:
    return commits.names(
        commits.run_git(folder, "diff-tree", "-r", "-z", "--name-only", "--no-renames", *options, old, new)
    )


def _is_as_in(home: Path, path: str, commit: str) -> bool:
    file = home / path
    if file.is_symlink() or not file.is_file():
        return False
    return commits.line(commits.run_git(home, "hash-object", "--", path)) == commits.find(home, f"{commit}:{path}")


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
