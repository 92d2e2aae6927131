"""What a path given to `submit` is: a worktree, a folder with a train.py, a single Python file, or nothing of the kind.

Reads files and asks git; queues and commits nothing. Whether the source is acceptable is admission.py's question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.errors import CandidateRejected
from scheduler.git import WorktreeState
from scheduler.policy.validation import MAX_BYTES, TRAIN_PY
from scheduler.workspace import Workspace

_UNTOLD = {"__pycache__", ".git", ".gitignore"}  # in a plain folder: neither code nor worth a refusal
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_LIKE_AN_ID = re.compile(r"[cr][0-9]+|last")


class NotACandidate(Exception):
    """The path is something else, such as candidates/README.md: worth a note, not a refusal."""


@dataclass(frozen=True, slots=True)
class Source:
    """A train.py as found. `worktree` is None for plain folders and files; `changed` are the paths beside its base."""

    path: Path
    name: str
    data: bytes
    base_id: str
    base_commit: str
    changed: tuple[str, ...]
    worktree: WorktreeState | None


def read_source(space: Workspace, path: Path) -> Source:
    """Look at one path. Raises CandidateRejected with the reason, NotACandidate, GitProblem."""
    if not path.exists():
        raise CandidateRejected(f"{path}: no such file or folder", _near(path))
    if path.is_file():
        return _read_file(space, path)
    if not path.is_dir():
        raise CandidateRejected(f"{path} is no file and no folder", "submit a worktree, a folder or a .py file")
    if not (path / TRAIN_PY).exists():
        raise CandidateRejected(f"{path} holds no train.py", _inside(path))
    return _read_folder(space, path)


def name_for(path: Path) -> str:
    """A candidate's name from a folder's or a file's."""
    stem = path.name if path.is_dir() else path.stem
    name = _NOT_IN_NAMES.sub("-", stem).strip("-._")[:60]
    return f"idea-{name}" if not name or _LIKE_AN_ID.fullmatch(name) else name


def _read_file(space: Workspace, path: Path) -> Source:
    if path.suffix != ".py":
        raise NotACandidate(f"{path} is no Python file")
    folder = path.resolve().parent
    if path.name == TRAIN_PY and folder != space.repo.root:
        return _read_folder(space, folder)
    return _plain(space, path, path, ())


def _read_folder(space: Workspace, path: Path) -> Source:
    folder = path.resolve()
    if not space.repo.has_worktree(folder):
        others = tuple(sorted(entry.name for entry in folder.iterdir() if _counts(entry)))
        return _plain(space, path, folder / TRAIN_PY, (TRAIN_PY, *others), folder)
    if folder == space.repo.root:
        state = space.repo.inspect(folder, space.baseline_commit())
        return _plain(space, path, folder / TRAIN_PY, state.changed, folder)
    base_id, base_commit = _base_of(space, folder)
    state = space.repo.inspect(folder, base_commit)
    data = read_train_py(folder / TRAIN_PY)
    return Source(path, name_for(folder), data, base_id, base_commit, state.changed, state)


def _plain(
    space: Workspace, path: Path, file: Path, changed: tuple[str, ...], named_after: Path | None = None
) -> Source:
    base_id, base_commit = space.lineage()[-1]
    return Source(path, name_for(named_after or path), read_train_py(file), base_id, base_commit, changed, None)


def read_train_py(path: Path) -> bytes:
    """The bytes of a source file. Raises CandidateRejected when it is too large or cannot be read."""
    if not path.is_file():
        raise CandidateRejected(f"{path} is no regular file", "a candidate is one file, train.py")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            hint = "weights and data do not belong in the source"
            raise CandidateRejected(f"train.py has {size:,} bytes, the limit is {MAX_BYTES:,}", hint)
        return path.read_bytes()
    except OSError as problem:
        raise CandidateRejected(f"{path} cannot be read: {problem.strerror}", "check its permissions") from None


def _base_of(space: Workspace, folder: Path) -> tuple[str, str]:
    """The latest baseline the worktree descends from; the current one when it descends from none."""
    lineage = space.lineage()
    head = space.repo.inspect(folder, lineage[-1][1]).head
    for candidate_id, commit in reversed(lineage):
        if space.repo.is_ancestor(commit, head):
            return candidate_id, commit
    return lineage[-1]


def _counts(entry: Path) -> bool:
    """Whether something beside train.py in a plain folder may be meant to travel with it."""
    return entry.name != TRAIN_PY and entry.name not in _UNTOLD and entry.suffix.lower() not in (".md", ".txt")


def _near(path: Path) -> str:
    import difflib

    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent} either"
    near = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {path.parent / near[0]}?" if near else f"make one: arsched new {name_for(path)}"


def _inside(path: Path) -> str:
    inside = any((entry / TRAIN_PY).is_file() for entry in path.iterdir() if entry.is_dir())
    return f"submit what is in it: arsched submit {path}/*" if inside else "a candidate's folder holds its train.py"
