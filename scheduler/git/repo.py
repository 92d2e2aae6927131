"""The user's repository: all the lab asks of git, behind one door.

Works on the main worktree from wherever it is opened, a candidate's worktree included. Never touches a file with
uncommitted changes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.files import write_atomic
from scheduler.domain.errors import GitProblem, LabProblem
from scheduler.git import commits, packs, worktrees
from scheduler.git.worktrees import WorktreeState, common_folder_of, git_folder_of, worktrees_lock

HEADING = "# arsched"  # of the lines in .git/info/exclude


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository with a main worktree at `root`. Commits and branches are names; methods raise GitProblem."""

    root: Path
    common_dir: Path  # where objects, refs and the worktrees' lock are

    @classmethod
    def open(cls, start: Path) -> Repo:
        """Find the repository that `start` is in. Raises LabProblem when there is none, or it has no work tree."""
        start = start.resolve()
        for folder in (start, *start.parents):
            git_folder = git_folder_of(folder)
            is_bare = (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()
            if git_folder is not None or is_bare:
                break
        else:
            hint = "in an empty folder `arsched init` makes one; otherwise run arsched in a clone of autoresearch"
            raise LabProblem(f"no git repository at {start}", hint)
        common = common_folder_of(git_folder or folder)
        top = commits.find_top(folder) if git_folder else None
        if top is None or git_folder != common:  # seen from a linked worktree, or from inside the git folder
            top = worktrees.find_main(common, start)
            commits.find_top(top)
        if git_folder_of(top) is None:  # core.worktree may name any folder
            link = f"echo {shlex.quote(f'gitdir: {common}')} > {shlex.quote(str(top / '.git'))}"
            hint = f"have it lead back: {link}; or: git config --unset core.worktree"
            raise LabProblem(f"the work tree of {start} is {top}, where no .git is", hint)
        return cls(top.resolve(), common)

    def keep_main(self) -> None:
        """Have the work tree found from every other worktree, where git alone does not know it."""
        worktrees.keep_main(self.root, self.common_dir)

    def head_commit(self) -> str:
        """The commit checked out in the main worktree. Raises LabProblem before the first commit."""
        commit = commits.find(self.root, "HEAD^{commit}")
        if commit is None:
            hint = "commit train.py first: git add train.py && git commit"
            raise LabProblem(f"{self.root} has no commit yet", hint)
        return commit

    def current_branch(self) -> str | None:
        """The branch checked out in the main worktree; None when HEAD is detached."""
        status, output, _ = commits.try_git(self.root, "symbolic-ref", "--quiet", "HEAD")
        return commits.line(output).removeprefix("refs/heads/") if status == 0 else None

    def read(self, commit: str, path: str) -> bytes:
        """A file as it is in a commit."""
        (found,) = commits.read_objects(self.root, f"{commit}:{path}")
        if found is None or found.kind != "blob":
            raise GitProblem(f"cannot read {path} of commit {commit[:12]}: it is no file there")
        return found.data

    def subject(self, commit: str) -> str:
        """First line of a commit's message."""
        return commits.run_git(self.root, "log", "-1", "--format=%s", commit).decode("utf-8", "replace").strip()

    def find_files(self, commit: str, name: str) -> tuple[str, ...]:
        """Paths of the files of that name in a commit, at the root or in any folder."""
        paths = commits.names(commits.run_git(self.root, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit))
        return tuple(path for path in paths if path.rpartition("/")[2] == name)

    def commit_train_py(self, parent: str, data: bytes, message: str, trailers: Mapping[str, str]) -> str:
        """A commit on `parent` with this train.py and nothing else changed; no branch, index or file is touched."""
        blob = commits.line(commits.run_git(self.root, "hash-object", "-w", "--stdin", data=data))
        (tree,) = commits.read_objects(self.root, f"{parent}^{{tree}}")
        if tree is None:
            raise commits.no_commit(self.root, parent)
        return commits.make_commit(self.root, parent, blob, tree.data, message, trailers)

    @staticmethod
    def merge_train_py(ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
        """`ours` with the changes from `base` to `theirs`; None when both changed the same lines to different ones."""
        return commits.merge_file(ours, base, theirs)

    # Branches and refs.

    def branch_commit(self, name: str) -> str | None:
        """The commit a branch is at; None when there is no such branch."""
        return commits.find(self.root, f"refs/heads/{name}^{{commit}}")

    def create_branch(self, name: str, commit: str) -> None:
        """Raises LabProblem when the branch exists, GitProblem when git refuses the name."""
        ref = f"refs/heads/{name}"
        status, _, errors = commits.try_git(self.root, "update-ref", "-m", "arsched: created", ref, commit, "")
        if status == 0:
            return
        if self.branch_commit(name) is not None:
            raise LabProblem(f"the branch {name!r} exists already", "choose another tag: arsched init --tag NAME")
        raise self._refused(ref, errors)

    def check_free(self, commit: str, *refs: str) -> None:
        """Raises GitProblem with the way out unless git could make all these refs now. Writes nothing."""
        steps = ["start", *(f"create {ref} {commit}" for ref in refs), "prepare", "abort", ""]
        status, _, errors = commits.try_git(self.root, "update-ref", "--stdin", data="\n".join(steps).encode())
        if status != 0 and "unknown command" not in errors:  # which git before 2.27 says of `start`
            raise commits.git_problem("update-ref", errors)

    def checkout_of(self, branch: str) -> Path | None:
        """The worktree that has the branch checked out, where there is one."""
        trees = worktrees.list_worktrees(self.root)
        return next((tree.path for tree in trees if tree.branch == branch and tree.path.is_dir()), None)

    def move_branch(self, name: str, new: str, old: str) -> str:
        """Move a branch from `old` to `new` if it still is at `old`. Returns the folder that followed, or "".

        Where the branch is checked out the files follow first, as far as no edit is in the way, and the branch after:
        a crash in between is healed by calling again. Raises LabProblem when the branch is at neither commit,
        GitProblem when an uncommitted edit is in the way: then nothing changes.
        """
        with worktrees_lock(self.common_dir):
            current = self.branch_commit(name)
            if current == new:
                return ""
            if current != old:
                where = (current or "no commit")[:12]
                hint = "another program moved it; see `git log` of the branch, and put it back or start a new lab"
                raise LabProblem(f"the branch {name!r} is at {where}, not at {old[:12]}", hint)
            home = self.checkout_of(name)
            if home is not None:
                worktrees.follow(home, commits.resolve(self.root, old), commits.resolve(self.root, new))
            try:
                commits.run_git(self.root, "update-ref", "-m", "arsched: promotion", f"refs/heads/{name}", new, old)
            except GitProblem:
                if home is not None:
                    with suppress(GitProblem):
                        worktrees.follow(home, new, old)
                raise
            return str(home or "")

    def keep_ref(self, tag: str, candidate_id: str, commit: str) -> str:
        """Keep a commit permanently. Returns the ref, refs/arsched/<tag>/<id>. Doing it again changes nothing."""
        ref = f"refs/arsched/{tag}/{candidate_id}"
        status, _, errors = commits.try_git(self.root, "update-ref", ref, commit)
        if status != 0:
            raise self._refused(ref, errors)
        return ref

    def kept_tags(self) -> tuple[str, ...]:
        """Tags of the labs that git has a record of, by refs or by a branch, whatever a ledger knows; sorted."""
        where = ("refs/arsched/", "refs/heads/autoresearch/")
        refs = commits.run_git(self.root, "for-each-ref", "--format=%(refname)", *where).decode().split()
        kept = {ref.split("/")[2] for ref in refs if ref.startswith("refs/arsched/")}
        branches = {ref.removeprefix("refs/heads/autoresearch/"): ref for ref in refs if ref.startswith("refs/heads/")}
        return tuple(
            sorted(kept | {tag for tag, ref in branches.items() if tag not in kept and self._begins(tag, ref)})
        )

    def _begins(self, tag: str, ref: str) -> bool:
        """Whether a branch has the commit that `arsched init` makes."""
        sought = ("--fixed-strings", f"--grep=baseline of {tag}: contract ")
        return bool(commits.run_git(self.root, "log", "--first-parent", "-1", "--format=%H", *sought, ref, "--"))

    def kept_refs(self, tag: str = "") -> dict[str, str]:
        """Candidate id -> commit, of all that `keep_ref` kept for a lab, or for any."""
        form = "--format=%(refname) %(objectname)"
        refs = commits.run_git(self.root, "for-each-ref", form, f"refs/arsched/{tag}").decode().splitlines()
        return {name.rpartition("/")[2]: commit for name, _, commit in (ref.partition(" ") for ref in refs)}

    def history(self, heads: Sequence[str]) -> dict[str, commits.CommitFacts]:
        """Id -> facts of these commits and of all they descend from by first parents."""
        return commits.read_history(self.root, heads)

    def root_commit(self) -> str:
        """The first commit of HEAD's line of first parents.

        Raises LabProblem before the first commit, GitProblem in a shallow clone, which does not have it.
        """
        packs.refuse_shallow(self.root)
        what = ("--first-parent", "--max-parents=0", self.head_commit())
        return commits.line(commits.run_git(self.root, "rev-list", *what))

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether commit `new` is `old` or descends from it."""
        return commits.try_git(self.root, "merge-base", "--is-ancestor", old, new)[0] == 0

    # What is carried to another repository and back.

    def add_blob(self, data: bytes) -> str:
        """Bytes into the store, under no ref. Returns their id."""
        return commits.line(commits.run_git(self.root, "hash-object", "-w", "--stdin", data=data))

    def read_blob(self, blob: str) -> bytes:
        """Raises GitProblem when it is not there."""
        (found,) = commits.read_objects(self.root, blob)
        if found is None or found.kind != "blob":
            raise GitProblem(f"no file {blob[:12]} in {self.root}", "run the command again")
        return found.data

    def make_pack(self, wanted: Sequence[str], known: Iterable[str]) -> bytes:
        """See `packs.make_pack`."""
        return packs.make_pack(self.root, wanted, known)

    def take_pack(self, pack: bytes, wanted: Sequence[str], *, as_it_is: bool = False) -> None:
        """See `packs.take_pack`."""
        packs.take_pack(self.root, pack, wanted, as_it_is=as_it_is)

    def existing(self, ids: Iterable[str]) -> list[str]:
        """Those of these commits and blobs that are here."""
        return packs.existing(self.root, ids)

    def read_refs(self, *prefixes: str) -> dict[str, str]:
        """Name -> id of all refs below the prefixes."""
        return packs.read_refs(self.root, *prefixes)

    def set_refs(self, refs: Mapping[str, str]) -> None:
        """Set all, or none."""
        packs.set_refs(self.root, refs)

    def check_out(self, branch: str, commit: str) -> None:
        """Have `branch` at the commit, and its files in the main worktree. Uncommitted edits in the way refuse it."""
        with worktrees_lock(self.common_dir):
            commits.run_git(self.root, "checkout", "--quiet", "--no-track", "-B", branch, commit)

    def inspect_commit(self, commit: str, *bases: str) -> WorktreeState:
        """What `inspect` says of a worktree, of a commit. Raises GitProblem when it is not here."""
        base, changed = worktrees.against(self.root, commits.resolve(self.root, commit), bases)
        others = bool(set(changed) - {commits.TRAIN_PY})
        return WorktreeState(commit, None, base, changed, dirty=False, others_committed=others)

    def _refused(self, ref: str, errors: str) -> GitProblem:
        if commits.try_git(self.root, "check-ref-format", ref)[0] != 0:
            return GitProblem(f"{ref!r} is no valid name in git", "use letters, digits, '-', '_' and '.'")
        return commits.git_problem("update-ref", errors)

    # Worktrees.

    def add_worktree(self, path: Path, commit: str, branch: str | None) -> None:
        """Check `commit` out in a new folder, on a new branch (None: detached). Safe from several processes.

        A branch left behind at this very commit is used again. Raises GitProblem when the folder is not empty, or the
        branch is elsewhere or holds other commits.
        """
        with worktrees_lock(self.common_dir):
            worktrees.add_worktree(self.root, path, commit, branch)

    def drop_worktree(self, path: Path) -> None:
        """Delete a worktree with all that is in it, edits and what git ignores too; the branch it had stays."""
        with worktrees_lock(self.common_dir):
            worktrees.drop_worktree(self.root, path)

    def remove_worktree(self, path: Path, hidden: Path, may_go: Callable[[Path], bool]) -> bool:
        """Delete a worktree that `may_go` says yes to once it is at `hidden`, next to it; its branch stays.

        Killed anywhere it is whole in one of the two places, or only `hidden` is left. Raises GitProblem.
        """
        with worktrees_lock(self.common_dir):
            return worktrees.remove_worktree(self.root, path, hidden, may_go)

    def worktrees_in(self, folder: Path) -> tuple[Path, ...]:
        """Those right below a folder, the deleted ones left out."""
        place = folder.resolve()
        trees = worktrees.list_worktrees(self.root)[1:]
        return tuple(tree.path for tree in trees if tree.path.parent == place and self.has_worktree(tree.path))

    def forget_worktrees(self, folder: Path) -> None:
        """Drop git's memory of those right below a folder that were deleted, unless they are locked."""
        place = folder.resolve()
        with worktrees_lock(self.common_dir):
            for tree in worktrees.list_worktrees(self.root)[1:]:
                if tree.path.parent == place and place.is_dir() and not tree.path.exists():
                    commits.try_git(self.root, "worktree", "remove", "--force", "--", str(tree.path))

    @staticmethod
    def uncommitted(path: Path) -> tuple[str, tuple[str, ...]]:
        """HEAD of a worktree, and the paths and unfinished work that would be lost with it, ignored files too."""
        return worktrees.uncommitted(path)

    def has_worktree(self, path: Path) -> bool:
        """Whether `path` is the top of a worktree of this repository (a folder inside one is not)."""
        git_folder = git_folder_of(path)
        return git_folder is not None and common_folder_of(git_folder) == self.common_dir

    def place_of(self, path: Path) -> Path | None:
        """Where git believes the worktree of this repository that is at `path` now, None where it knows none."""
        git_folder = git_folder_of(path)
        if git_folder is None or not self.has_worktree(path):
            return None
        try:
            noted = os.fsdecode((git_folder / "gitdir").read_bytes()).rstrip("\n")
        except OSError:
            return None
        return Path(os.path.normpath(git_folder / noted)).parent

    @staticmethod
    def is_cut_off(path: Path) -> bool:
        """Whether `path` is the top of a worktree whose .git leads nowhere, as after its clone was moved."""
        return (path / ".git").is_file() and git_folder_of(path) is None

    def inspect(self, path: Path, *bases: str) -> WorktreeState:
        """What a worktree holds, against the last of the commits `bases` that it descends from.

        That is the last of all when it descends from none. `bases` are given oldest first, each a descendant of the
        one before. Raises LabProblem when `path` is no worktree of this repository.
        """
        if not self.has_worktree(path):
            raise LabProblem(f"{path} is no worktree of {self.root}", "make one with `arsched new NAME`")
        return worktrees.inspect(path, bases)

    @staticmethod
    def commit_worktree(path: Path, message: str) -> tuple[str, bytes]:
        """Commit train.py, and only that, as it stands in a worktree.

        Returns the commit (HEAD when nothing was changed) and train.py as git has it: line ends may be git's.
        """
        return worktrees.commit_train_py(path, message)

    def exclude(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Have git ignore patterns like "/.arsched/" or "/candidates/*" in this clone alone: in .git/info/exclude.

        Returns those it did not ignore already. The user's own .gitignore stays as it is.
        """
        fitting = (self._of_link(pattern) for pattern in patterns)
        new = tuple(pattern for pattern in fitting if not self._is_ignored(pattern))
        if new:
            path = self.common_dir / "info" / "exclude"
            try:
                before = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
                start = before if not before or before.endswith("\n") else before + "\n"
                text = "\n".join([f"{start}{HEADING}", *new, ""])
                write_atomic(path, text.encode("utf-8", "surrogateescape"), durable=False)
            except OSError as problem:
                raise GitProblem(f"cannot write {path}: {problem.strerror}", "is the repository writable?") from None
        return new

    def _of_link(self, pattern: str) -> str:
        """A pattern for what is in a folder does not match a link in its place; the link's name does."""
        name = pattern.strip("/*")
        return f"/{name}" if (self.root / name).is_symlink() else pattern

    def _is_ignored(self, pattern: str) -> bool:
        """Asked of a file the pattern would match; the index is left out: tracked files would hide the answer."""
        probe = pattern.strip("/").replace("*", "arsched-probe") + ("/arsched-probe" if pattern.endswith("/") else "")
        command = ("check-ignore", "--quiet", "--no-index", "--", probe)
        # The path is spelled out, so git's literal pathspecs, which this command refuses, are not needed.
        return commits.try_git(self.root, *command, environment={"GIT_LITERAL_PATHSPECS": "0"})[0] == 0


def begin_empty(folder: Path, branch: str, hash_digits: int) -> bool:
    """See that `folder` is a repository of its own, made without a commit; whether it was made now. Raises GitProblem.

    `hash_digits` of its ids: 40, or 64 for SHA-256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alone = {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    if commits.try_git(folder, "rev-parse", "--git-dir", environment=alone)[0] == 0:
        return False  # a half one, of a `git init` that was killed, is no repository
    form = ("--object-format=sha256",) if hash_digits == 64 else ()
    commits.run_git(folder, "init", "--quiet", "--initial-branch", branch, *form)
    return True


def create_repo(folder: Path, message: str) -> None:
    """Put everything in `folder` into the first commit of a repository there. One that has a commit stays as it is.

    Raises GitProblem. Works without a configured user and inside another repository's checkout.
    """
    commits.run_git(folder, "init", "--quiet", "--initial-branch", "main")
    if commits.find(folder, "HEAD") is None:
        commits.run_git(folder, "add", "--all")
        commits.run_as_user(folder, "commit", "--quiet", "--no-gpg-sign", "--message", message)
