"""Git commands, one at a time through GitPython, and objects of its store read and made with them.

Every command runs without prompts, in plain English, and starts no other program (`nothing_else`). No checkout, index
or branch is touched. A candidate's commit differs from its parent in train.py only, by construction: the parent's tree
with one entry replaced.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scheduler.domain.errors import CandidateRejected, GitProblem
from scheduler.git.nothing_else import (
    ENVIRONMENT,
    LIST_CONFIGURATION,
    OPTIONS,
    STORE_COMMANDS,
    drivers_off,
    forget_inherited,
)

TRAIN_PY = "train.py"
MOST_CONFLICTS = 127  # git counts no further; a higher status of merge-file is a failure
_TRAILER_KEY = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_NO_WORK_TREE = "must be run in a work tree"
_NO_USER = re.compile("auto-detection is disabled|empty ident name")
_ARSCHED = {
    **{"GIT_AUTHOR_NAME": "arsched", "GIT_AUTHOR_EMAIL": "arsched@localhost"},
    **{"GIT_COMMITTER_NAME": "arsched", "GIT_COMMITTER_EMAIL": "arsched@localhost"},
}


class GitObject(NamedTuple):
    """`kind` is blob, tree, commit or tag."""

    id: str
    kind: str
    data: bytes


def find(folder: Path, name: str) -> str | None:
    """Full id of an object, like "HEAD" or "<commit>:train.py"; None when there is none of that name."""
    status, output, _ = try_git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", name)
    return line(output) if status == 0 else None


def resolve(folder: Path, revision: str) -> str:
    """Full id of a commit. Raises GitProblem when there is none of that name."""
    commit = find(folder, f"{revision}^{{commit}}")
    if commit is None:
        raise no_commit(folder, revision)
    return commit


def no_commit(folder: Path, revision: str = "HEAD") -> GitProblem:
    return GitProblem(f"no commit {revision!r} in {folder}", "see `git log`")


def read_objects(folder: Path, *names: str) -> tuple[GitObject | None, ...]:
    """The objects of these names, like "HEAD" or "<commit>:train.py", in one command; None for one that is not there.

    A name has no line end.
    """
    output = run_git(folder, "cat-file", "--batch", data="".join(f"{name}\n" for name in names).encode())
    found: list[GitObject | None] = []
    for name in names:
        head, _, output = output.partition(b"\n")
        if head in (f"{name} missing".encode(), f"{name} ambiguous".encode()):
            found.append(None)
            continue
        object_id, kind, size = head.decode().split(" ")
        found.append(GitObject(object_id, kind, output[: int(size)]))
        output = output[int(size) + 1 :]
    return tuple(found)


def make_commit(
    folder: Path, parent: str, blob: str, tree: bytes, message: str, trailers: Mapping[str, str] | None = None
) -> str:
    """A commit on `parent`, whose tree object is `tree`, with train.py replaced by `blob` or added. Returns its id."""
    mode = "100644"
    entries = b""
    for entry_mode, name, object_id in _tree_entries(tree, len(blob) // 2):
        if name == TRAIN_PY.encode():
            mode = entry_mode if entry_mode.startswith("100") else mode
        else:
            kind = {"40000": "tree", "160000": "commit"}.get(entry_mode, "blob")
            entries += f"{entry_mode} {kind} {object_id}\t".encode() + name + b"\0"
    entries += f"{mode} blob {blob}\t{TRAIN_PY}\0".encode()
    new_tree = line(run_git(folder, "mktree", "-z", data=entries))
    text = compose(message, trailers or {}).encode("utf-8", "replace")
    return line(run_as_user(folder, "commit-tree", new_tree, "-p", parent, data=text))


def run_as_user(folder: Path, *arguments: str, data: bytes = b"") -> bytes:
    """Run a git command that commits, as arsched where no user is configured. Raises GitProblem."""
    status, output, errors = try_git(folder, *arguments, data=data)
    if status != 0 and _NO_USER.search(errors):
        named = {name: os.environ.get(name) or value for name, value in _ARSCHED.items()}
        return run_git(folder, *arguments, data=data, environment=named)
    return output if status == 0 else run_git(folder, *arguments, data=data)


def compose(message: str, trailers: Mapping[str, str]) -> str:
    """A commit message with trailers. A value is one line, whatever it came as: it cannot pose as another trailer."""
    for key in trailers:
        if not _TRAILER_KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no name for a trailer")
    lines = [f"{key}: {' '.join(str(value).split())}\n" for key, value in trailers.items()]
    body = message.replace("\0", " ").strip() or "(no message)"
    return "\n".join([f"{body}\n", *(["".join(lines).replace("\0", " ")] if lines else [])])


def merge_file(ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
    """`ours` with the changes from `base` to `theirs`, as git merges a file.

    None when both changed the same lines to different ones. Raises GitProblem: no text, no git, no room.
    """
    with tempfile.TemporaryDirectory(prefix="arsched-merge-") as folder:
        names = ("ours", "base", "theirs")
        for name, data in zip(names, (ours, base, theirs), strict=True):
            Path(folder, name).write_bytes(data)
        status, merged, errors = try_git(Path(folder), "merge-file", "-p", *names)
    if status == 0:
        return merged
    if 0 < status <= MOST_CONFLICTS:
        return None
    raise GitProblem(f"git merge-file failed: {errors.strip().removeprefix('error: ') or f'status {status}'}")


def apply_patch(source: bytes, patch: bytes) -> bytes:
    """A train.py with a unified diff applied, as `git diff` prints it; wrong line counts in it are corrected.

    With or without the prefixes a/ and b/, as diff.noprefix has it. `source` and `patch` have LF. Raises
    CandidateRejected when it does not apply or changes another file, GitProblem: no git, no room.
    """
    prefixed = () if re.search(rb"^\+\+\+ train\.py$", patch, re.MULTILINE) is None else ("-p0",)
    command = ("apply", "--recount", "--whitespace=nowarn", *prefixed)
    with tempfile.TemporaryDirectory(prefix="arsched-patch-") as folder:
        path = Path(folder, TRAIN_PY)
        path.write_bytes(source)
        outside = {"GIT_CEILING_DIRECTORIES": str(Path(folder).parent)}  # no repository, wherever the folder is

        def apply(*how: str) -> bytes:
            data = patch.rstrip(b"\n") + b"\n"
            status, output, errors = try_git(Path(folder), *command, *how, "-", data=data, environment=outside)
            if status != 0 or path.is_symlink() or not path.is_file():
                why = next(iter(errors.strip().splitlines()), "train.py is no regular file afterwards")
                hint = "give it as `git diff` prints it, against the baseline's train.py"
                raise CandidateRejected(f"the patch does not apply: {why.removeprefix('error: ')}", hint)
            return output

        changed = {name.rpartition("\t")[2] for name in names(apply("--numstat", "-z"))}
        if others := ", ".join(sorted(changed - {TRAIN_PY, ""})):
            raise CandidateRejected(f"the patch also changes {others}", "only train.py may differ from the baseline")
        apply()
        return path.read_bytes()


def _tree_entries(tree: bytes, hash_bytes: int) -> Iterator[tuple[str, bytes, str]]:
    """Mode, name and id of each entry of a tree object."""
    at = 0
    while at < len(tree):
        end = tree.index(b"\0", at)
        mode, _, name = tree[at:end].partition(b" ")
        at = end + 1 + hash_bytes
        yield mode.decode(), name, tree[end + 1 : at].hex()


_HINTS = {
    r"No space left|Disk quota": "the disk is full: make room and run the command again",
    r"Permission denied|Read-only file system": "see who owns the files in .git, and whether they can be written",
}
_KNOWN = {  # what git says -> message and hint
    r"'([^']+\.lock)': File exists": (
        "git {command} failed: {0} exists",
        "if no git command is at work, one was killed and left it: delete {0}",
    ),
    r"'refs/heads/([^']+)' exists; cannot create 'refs/heads/([^']+)'": (
        "the branch {0!r} is in the way: git makes no branch {1!r} next to it",
        "rename that one, nothing of it is lost: git branch -m {0} NEWNAME; then run the command again",
    ),
    r"dubious ownership in repository at '([^']+)'": (
        "the repository {0} belongs to another user",
        "if you trust what is in it: git config --global --add safe.directory {0}",
    ),
}


def run_git(folder: Path, *arguments: str, data: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    """Standard output of `git ARGUMENTS` in `folder`, with `data` on its input. Raises GitProblem when it fails."""
    status, output, errors = try_git(folder, *arguments, data=data, environment=environment)
    if status != 0:
        raise git_problem(arguments[0], errors)
    return output


def try_git(
    folder: Path, *arguments: str, data: bytes = b"", environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, str]:
    """Exit status, output and error text, for commands whose failure is an answer."""
    off = [] if arguments[0] in STORE_COMMANDS else drivers_off(run_git(folder, *LIST_CONFIGURATION))
    forget_inherited()
    try:
        import git
    except ImportError:
        raise _no_git() from None
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        try:
            status, output, errors = git.Git(folder).execute(
                ["git", *OPTIONS, *off, *arguments],
                istream=source,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                env={**ENVIRONMENT, **(environment or {})},
            )
        except git.exc.GitCommandNotFound:
            raise _no_git() if folder.is_dir() else GitProblem(f"the folder {folder} is gone") from None
    _refuse_killed(status, arguments)
    return status, output, errors if isinstance(errors, str) else errors.decode("utf-8", "replace")


class CommitFacts(NamedTuple):
    """What a commit says of itself. `parent` is its first, "" without one; `at` in seconds since the epoch."""

    id: str
    parent: str
    at: float
    author: str
    message: str

    @property
    def subject(self) -> str:
        return self.message.partition("\n")[0].strip()

    @property
    def trailers(self) -> dict[str, str]:
        """Those that `compose` wrote: the last paragraph, where every line of it is one."""
        pairs = [text.partition(": ") for text in self.message.strip().rpartition("\n\n")[2].splitlines()]
        if not all(_TRAILER_KEY.fullmatch(key) for key, _, _ in pairs):
            return {}
        return {key: value for key, _, value in pairs}


def read_history(folder: Path, heads: Sequence[str]) -> dict[str, CommitFacts]:
    """Id -> facts of these commits and of all they descend from by first parents."""
    if not heads:
        return {}
    how = ("--first-parent", "--encoding=UTF-8", "--format=%H%x00%P%x00%ct%x00%an%x00%B", "-z", "--stdin")
    output = run_git(folder, "log", *how, data="".join(f"{head}\n" for head in heads).encode())
    fields = iter(output.decode("utf-8", "replace").split("\0")[:-1])
    rows = zip(*[fields] * 5, strict=True)
    facts = (CommitFacts(commit, parents.partition(" ")[0], float(at), *rest) for commit, parents, at, *rest in rows)
    return {one.id: one for one in facts}


def find_top(folder: Path) -> Path | None:
    """The top of the work tree that `folder` is in, by git's own word; None where there is no work tree.

    Raises GitProblem for git's objections to a repository, such as a foreign owner. Without GitPython, whose import
    takes longer than most commands do.
    """
    status, output, errors = _ask(folder, "rev-parse", "--show-toplevel")
    if status != 0 and _NO_WORK_TREE not in errors:
        raise git_problem("rev-parse", errors)
    return Path(line(output)) if status == 0 else None


def work_tree_settings(git_folder: Path) -> tuple[bool, str]:
    """`core.bare` and `core.worktree` ("" when not set) of a repository, asked for from outside its git folder."""
    what = ("config", "-z", "--get-regexp", r"^core\.(bare|worktree)$")
    _, output, _ = _ask(git_folder.parent, f"--git-dir={git_folder}", *what)
    values = dict(setting.partition("\n")[::2] for setting in names(output))
    return values.get("core.bare", "").lower() in ("true", "1", "yes", "on"), values.get("core.worktree", "")


def _ask(folder: Path, *arguments: str) -> tuple[int, bytes, str]:
    forget_inherited()
    environment = {**os.environ, **ENVIRONMENT, "LC_ALL": "C", "LANGUAGE": "C"}
    command = ["git", *OPTIONS, *arguments]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise _no_git() from None
    _refuse_killed(done.returncode, arguments)
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")


def _refuse_killed(status: int, arguments: Sequence[str]) -> None:
    """Raises GitProblem: the status of a git that was killed is no answer."""
    if status < 0:
        what = f"git {arguments[0]} was killed by signal {-status}"
        raise GitProblem(what, "see that the machine has memory and disk left, and run the command again")


def git_version() -> str:
    """Like "git version 2.43.0". Raises GitProblem when git cannot be run."""
    return line(run_git(Path.cwd(), "version"))


def line(output: bytes) -> str:
    """The one line a command printed."""
    return os.fsdecode(output).removesuffix("\n")


def names(output: bytes) -> tuple[str, ...]:
    """What a command printed with -z: names ended by NUL, whatever bytes they hold."""
    return tuple(os.fsdecode(name) for name in output.split(b"\0") if name)


def _no_git() -> GitProblem:
    return GitProblem("git cannot be run", "see that git is installed and on the PATH")


def git_problem(command: str, errors: str) -> GitProblem:
    """What git said when a command failed, with a hint where there is one."""
    for sign, (message, hint) in _KNOWN.items():
        if found := re.search(sign, errors):
            words = found.groups()
            return GitProblem(message.format(*words, command=command), hint.format(*map(shlex.quote, words)))
    reasons = [text for text in errors.strip().splitlines() if text.strip()]
    hint = next((hint for sign, hint in _HINTS.items() if re.search(sign, errors)), "")
    what = "; ".join(text.removeprefix("fatal: ").removeprefix("error: ") for text in reasons[:3])
    return GitProblem(f"git {command} failed: {what or 'no reason given'}", hint)
