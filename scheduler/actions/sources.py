"""What a path on the command line is: a worktree, a folder with a train.py, a Python file, or a name in candidates/.

Also a candidate carried here from another repository, which is a commit under no ref: `carried_path` spells it.

Reads only. Whether the bytes make a candidate is policy.source's question.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from scheduler.domain.errors import CandidateRejected, GitProblem
from scheduler.git import Repo, WorktreeState
from scheduler.lab import LabPaths
from scheduler.policy.source import MAX_BYTES, TRAIN_PY

Lineage = Sequence[tuple[str, str]]  # id and commit of every baseline, the current one last
_CARRIED = re.compile(r"commit:([0-9a-f]{40}|[0-9a-f]{64}):([A-Za-z0-9._-]{1,80})")  # a name of `name_for`


class Checkout(Protocol):
    """A repository and where its candidates lie, with a lab or without."""

    @property
    def repo(self) -> Repo: ...
    @property
    def paths(self) -> LabPaths: ...


class NotACandidate(Exception):
    """The path is something else, such as candidates/README.md: to be skipped with a note."""


class SourceFile(NamedTuple):
    """A train.py as found. `worktree` is None for plain folders and files; `changed` differs from its base."""

    path: Path
    name: str
    data: bytes
    base_id: str
    base_commit: str
    changed: tuple[str, ...]
    worktree: WorktreeState | None


def find_place(paths: LabPaths, given: Path) -> Path:
    """The path as typed, or the folder of candidates/ that it names."""
    named = paths.candidates / given
    is_name = not given.is_absolute() and len(given.parts) == 1
    return Path(os.path.relpath(named)) if is_name and not is_there(given) and named.is_dir() else given


def distinct(places: Iterable[Path]) -> list[Path]:
    """Without those that lead to the same place as an earlier one."""
    found: dict[str, Path] = {}
    for place in places:
        found.setdefault(os.path.realpath(place), place)  # a loop of links is no error to it
    return list(found.values())


def carried_path(commit: str, name: str) -> Path:
    """The candidate `name` whose train.py is that of a commit: a path to `read_path`, and to no file."""
    return Path(f"commit:{commit}:{name}")


def is_carried(path: Path) -> bool:
    return _CARRIED.fullmatch(str(path)) is not None


def read_path(space: Checkout, path: Path, lineage: Lineage) -> SourceFile:
    """Look at one path. Raises CandidateRejected with the reason, NotACandidate, GitProblem, OSError."""
    if carried := _CARRIED.fullmatch(str(path)):
        return _read_commit(space, path, carried[1], carried[2], lineage)
    if not path.exists():
        raise _nothing_there(space.paths, path)
    if path.is_file():
        if path.suffix != ".py":
            raise NotACandidate(f"{path} is no Python file")
        folder = path.resolve().parent
        if path.name == TRAIN_PY and folder != space.repo.root:
            return _read_folder(space, folder, lineage)
        return SourceFile(path, name_for(path), read_train_py(path), *lineage[-1], (), None)
    if not path.is_dir():
        raise CandidateRejected("it is no file and no folder", "submit a worktree, a folder or a .py file")
    if not (path / TRAIN_PY).exists():
        inside = any((entry / TRAIN_PY).is_file() for entry in path.iterdir() if entry.is_dir())
        within = f"submit what is in it: arsched submit {shlex.quote(str(path))}/*"
        hint = within if inside else "a candidate's folder holds its train.py"
        raise CandidateRejected("it holds no train.py", hint)
    return _read_folder(space, path, lineage)


def _read_commit(space: Checkout, path: Path, commit: str, name: str, lineage: Lineage) -> SourceFile:
    state = space.repo.inspect_commit(commit, *(commit for _, commit in lineage))
    data = space.repo.read(commit, TRAIN_PY)
    _check_size(len(data))
    base_id = {commit: candidate_id for candidate_id, commit in lineage}[state.base]
    return SourceFile(path, name, data, base_id, state.base, state.changed, state)


def name_for(path: Path) -> str:
    """A candidate's name from a folder's or a file's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name if path.is_dir() else path.stem)
    name = re.sub(r"\.{2,}", ".", name).strip("-._")[:64].rstrip("-._").removesuffix(".lock")
    return f"idea-{name}"[:64].rstrip("-._") if not name or reads_like_an_id(name) else name


def can_name_branch(name: str, longest: int) -> bool:
    """Whether git takes it as the last part of a branch's name, and people can type it."""
    fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None and len(name) <= longest
    return fits and ".." not in name and not name.endswith((".lock", "."))


def reads_like_an_id(name: str) -> bool:
    """Whether a command line could not tell the name from a candidate's or a run's id."""
    return re.fullmatch(r"[cr][0-9]+|last", name) is not None


def read_train_py(path: Path) -> bytes:
    """The bytes of a source file. Raises CandidateRejected when it is too large or not readable, OSError."""
    if not path.is_file():
        raise CandidateRejected(f"{path.name} is no regular file", "a candidate is one file, train.py")
    try:
        _check_size(path.stat().st_size)
        return path.read_bytes()
    except PermissionError as problem:
        raise CandidateRejected(f"{path.name} cannot be read: {problem.strerror}", "check its permissions") from None


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        hint = "weights and data do not belong in the source"
        raise CandidateRejected(f"train.py has {size:,} bytes, the limit is {MAX_BYTES:,}", hint)


def _read_folder(space: Checkout, path: Path, lineage: Lineage) -> SourceFile:
    folder = path.resolve()
    file, name, base = folder / TRAIN_PY, name_for(folder), lineage[-1]
    if not space.repo.has_worktree(folder):
        _refuse_foreign_worktree(space, folder)
        meant = {entry.name for entry in folder.iterdir() if entry.suffix.lower() not in (".md", ".txt")}
        return SourceFile(path, name, read_train_py(file), *base, tuple(sorted(meant - {".git"})), None)
    if folder == space.repo.root:
        state = space.repo.inspect(folder, base[1])
        return SourceFile(path, name, read_train_py(file), *base, state.changed, None)
    state = space.repo.inspect(folder, *(commit for _, commit in lineage))
    base_id = {commit: candidate_id for candidate_id, commit in lineage}[state.base]
    return SourceFile(path, name, read_train_py(file), base_id, state.base, state.changed, state)


def _refuse_foreign_worktree(space: Checkout, folder: Path) -> None:
    """A worktree that is not of this repository is no plain folder: all its files would count as changes."""
    if space.repo.is_cut_off(folder):
        what = "it is a worktree that has lost its repository, as after a clone was moved"
        raise GitProblem(what, repair_hint(space.paths, [folder]))
    if (folder / ".git").is_file():
        hint = f"submit it there; or here: arsched new {name_for(folder)}-2, and copy its train.py"
        raise CandidateRejected("it is a worktree of another repository", hint)


def repair_hint(paths: LabPaths, folders: Sequence[Path]) -> str:
    """How worktrees of a clone that was moved are joined to it again."""
    inside = all(folder.parent == paths.candidates.resolve() for folder in folders)
    which = f"{paths.candidates.name}/*/" if inside else shlex.join(map(str, folders))
    return f"join them again, no file changes: cd {shlex.quote(str(paths.root))} && git worktree repair {which}"


def is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _nothing_there(paths: LabPaths, path: Path) -> CandidateRejected:
    if path.is_symlink():
        return CandidateRejected(f"it is a link to {path.readlink()}, where nothing is", "mend the link")
    if any(sign in path.name for sign in "*?["):
        return CandidateRejected(
            "nothing matches this pattern", "what there is: ls candidates; make one: arsched new NAME"
        )
    return CandidateRejected("no such file, folder or candidate", _near(paths, path))


def _near(paths: LabPaths, path: Path) -> str:
    places = {name: path.parent / name for name in _names_in(path.parent)}
    if len(path.parts) == 1:
        places |= {name: Path(name) for name in _names_in(paths.candidates) if name not in places}
    elif not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    near = difflib.get_close_matches(path.name, places, 1)
    return f"did you mean {places[near[0]]}?" if near else f"make one: arsched new {name_for(path)}"


def _names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
