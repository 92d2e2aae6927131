"""Commits of train.py made in git's object store alone: no checkout and no index is touched.

A candidate's commit differs from its parent in train.py only, by construction: the parent's tree with one entry
replaced. Moves no branch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from scheduler.domain.errors import GitProblem
from scheduler.git.plumbing import identity, line, run_git, try_git

TRAIN_PY = "train.py"
_TRAILER_KEY = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


def resolve(folder: Path, revision: str) -> str:
    """Full id of a commit. Raises GitProblem when there is none of that name."""
    status, output, _ = try_git(
        folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    if status != 0:
        raise GitProblem(f"no commit {revision!r} in {folder}", "see `git log`")
    return line(output)


def read_file(folder: Path, commit: str, path: str) -> bytes:
    """Bytes of a file in a commit. Raises GitProblem when it is not there."""
    status, output, errors = try_git(folder, "cat-file", "blob", f"{commit}:{path}")
    if status != 0:
        raise GitProblem(f"cannot read {path} of commit {commit[:12]}: {errors.strip().removeprefix('fatal: ')}")
    return output


def subject(folder: Path, commit: str) -> str:
    """First line of a commit's message."""
    return run_git(folder, "log", "-1", "--format=%s", commit).decode("utf-8", "replace").strip()


def write_blob(folder: Path, data: bytes) -> str:
    return line(run_git(folder, "hash-object", "-w", "--stdin", data=data))


def commit_blob(folder: Path, parent: str, blob: str, message: str, trailers: Mapping[str, str]) -> str:
    """A commit on `parent` whose train.py is `blob`. Returns its id."""
    tree = _tree_with(folder, parent, blob)
    text = compose(message, trailers).encode("utf-8", "replace")
    return line(run_git(folder, "commit-tree", tree, "-p", parent, data=text, environment=identity(folder)))


def compose(message: str, trailers: Mapping[str, str]) -> str:
    """A commit message with trailers. A value is one line, whatever it came as: it cannot pose as another trailer."""
    for key in trailers:
        if not _TRAILER_KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no name for a trailer")
    lines = [f"{key}: {' '.join(str(value).split())}" for key, value in trailers.items()]
    body = message.replace("\0", " ").strip() or "(no message)"
    return "\n\n".join([body, *(["\n".join(lines).replace("\0", " ")] if lines else [])]) + "\n"


def _tree_with(folder: Path, parent: str, blob: str) -> str:
    """The parent's tree with train.py replaced (or added), every other entry as it stands, byte for byte."""
    entries = [entry for entry in run_git(folder, "ls-tree", "-z", parent).split(b"\0") if entry]
    mode = b"100644"
    kept = []
    for entry in entries:
        about, _, name = entry.partition(b"\t")
        if name == TRAIN_PY.encode():
            mode = about.split(b" ")[0] if about.startswith(b"100") else mode
        else:
            kept.append(entry)
    added = b"%b blob %b\t%b" % (mode, blob.encode(), TRAIN_PY.encode())
    return line(run_git(folder, "mktree", "-z", data=b"\0".join([*kept, added]) + b"\0"))
