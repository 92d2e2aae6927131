"""The user's repository: all the lab asks of git, behind one door.

Works on the main worktree from wherever it is opened, a candidate's worktree included. Never touches a file with
uncommitted changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.errors import GitProblem, LabProblem
from scheduler.git import branches, commits, excludes, merging, worktrees
from scheduler.git.plumbing import library, run_git, try_git
from scheduler.git.worktrees import WorktreeState


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository with a main worktree at `root`. Commits and branches are names; methods raise GitProblem."""

    root: Path
    common_dir: Path  # where objects, refs and the worktrees' lock are

    @classmethod
    def open(cls, start: Path) -> Repo:
        """Find the repository that `start` is in. Raises LabProblem when there is none, or it is bare."""
        git = library()
        try:
            with git.Repo(start.resolve(), search_parent_directories=True, expand_vars=False) as found:
                common_dir, git_dir, top = Path(found.common_dir), Path(found.git_dir), found.working_tree_dir
        except (git.exc.InvalidGitRepositoryError, git.exc.NoSuchPathError):
            raise LabProblem(
                f"no git repository at {start}", "run arsched inside a clone of autoresearch (or `git init` first)"
            ) from None
        run_git(common_dir, "rev-parse", "--git-dir")  # git's own objections come first, such as a foreign owner
        if top is not None and common_dir.resolve() == git_dir.resolve():
            return cls(Path(top).resolve(), common_dir.resolve())
        return cls(_main_worktree(start, common_dir), common_dir.resolve())

    def head_commit(self) -> str:
        """The commit checked out in the main worktree. Raises LabProblem before the first commit."""
        try:
            return commits.resolve(self.root, "HEAD")
        except GitProblem:
            hint = "commit train.py first: git add train.py && git commit"
            raise LabProblem(f"{self.root} has no commit yet", hint) from None

    def current_branch(self) -> str | None:
        """The branch checked out in the main worktree; None when HEAD is detached."""
        return worktrees.branch_of(self.root)

    def is_dirty(self) -> bool:
        """Whether a tracked file of the main worktree has uncommitted changes, staged or not."""
        return bool(worktrees.changes(self.root, untracked=False))

    def resolve(self, revision: str) -> str:
        """Full id of the commit a revision names."""
        return commits.resolve(self.root, revision)

    def read(self, commit: str, path: str) -> bytes:
        """A file as it is in a commit."""
        return commits.read_file(self.root, commit, path)

    def subject(self, commit: str) -> str:
        """First line of a commit's message."""
        return commits.subject(self.root, commit)

    def exclude(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Have git ignore these patterns in this clone alone. Returns those it did not ignore already."""
        return excludes.exclude(self.root, self.common_dir, patterns)

    def commit_train_py(self, parent: str, data: bytes, message: str, trailers: Mapping[str, str]) -> str:
        """A commit on `parent` with this train.py and nothing else changed; no branch, index or file is touched."""
        return commits.commit_blob(self.root, parent, commits.write_blob(self.root, data), message, trailers)

    def merge_train_py(self, ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
        """`ours` with what changed from `base` to `theirs`; None when that conflicts with what `ours` changed."""
        return merging.merge_file(ours, base, theirs)

    def create_branch(self, name: str, commit: str) -> None:
        """Raises LabProblem when the branch exists."""
        branches.create_branch(self.root, name, commit)

    def branch_commit(self, name: str) -> str | None:
        return branches.branch_commit(self.root, name)

    def move_branch(self, name: str, new: str, old: str) -> str:
        """Move a branch from `old` to `new`, its checkout following. Returns the folder that followed, or "".

        Raises LabProblem when the branch is at neither, GitProblem when an uncommitted edit is in the way.
        """
        with worktrees.worktrees_lock(self.common_dir):
            return branches.move_branch(self.root, name, new, old)

    def keep_ref(self, tag: str, candidate_id: str, commit: str) -> str:
        """Keep a commit for ever. Returns the ref, refs/arsched/<tag>/<id>."""
        return branches.keep_ref(self.root, tag, candidate_id, commit)

    def kept_tags(self) -> tuple[str, ...]:
        """Tags of the labs that have kept a commit here, whether or not there is a ledger that knows them."""
        return branches.kept_tags(self.root)

    def add_worktree(self, path: Path, commit: str, branch: str | None) -> None:
        """A new worktree at `path` with `commit` on a new branch (None: detached). Safe from several processes."""
        with worktrees.worktrees_lock(self.common_dir):
            worktrees.add_worktree(self.root, path, commit, branch)

    def remove_worktree(self, path: Path) -> None:
        """Remove a worktree in which everything is committed."""
        with worktrees.worktrees_lock(self.common_dir):
            worktrees.remove_worktree(self.root, path)

    def drop_worktree(self, path: Path) -> None:
        """Delete a worktree with all that is in it, edits and what git ignores too; the branch it had stays."""
        with worktrees.worktrees_lock(self.common_dir):
            worktrees.drop_worktree(self.root, path)

    def has_worktree(self, path: Path) -> bool:
        """Whether `path` is the top of a worktree of this repository (a folder inside one is not)."""
        return worktrees.is_worktree(path) and _common_dir(path) == self.common_dir

    def inspect(self, path: Path, base: str) -> WorktreeState:
        """What a worktree holds, against the commit `base`. Raises LabProblem when it is none of this repository."""
        if not self.has_worktree(path):
            raise LabProblem(f"{path} is no worktree of {self.root}", "make one with `arsched new NAME`")
        return worktrees.inspect(path, base)

    def commit_worktree(self, path: Path, message: str) -> str:
        """Commit train.py, and only that, as it stands in a worktree. Returns the commit."""
        return worktrees.commit_train_py(path, message)

    def is_ancestor(self, ancestor: str, commit: str) -> bool:
        """Whether `commit` is `ancestor` or descends from it."""
        status, _, errors = try_git(self.root, "merge-base", "--is-ancestor", ancestor, commit)
        if status not in (0, 1):
            raise GitProblem(f"cannot compare {ancestor[:12]} and {commit[:12]}: {errors.strip()}")
        return status == 0


def _common_dir(path: Path) -> Path:
    return (path / Path(run_git(path, "rev-parse", "--git-common-dir").decode().rstrip("\n"))).resolve()


def _main_worktree(start: Path, common_dir: Path) -> Path:
    """The main worktree, seen from a linked one or from inside the .git folder."""
    main = worktrees.list_worktrees(common_dir)[0]
    if main.bare or not (main.path / ".git").exists():
        raise LabProblem(f"the repository of {start} is bare", "arsched needs a clone with a working tree")
    return main.path.resolve()
