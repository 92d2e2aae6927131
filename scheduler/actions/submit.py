"""Candidates from paths into the queue: each one whole or not at all, whatever becomes of its neighbours.

A path is a worktree, a folder with a train.py, or a single Python file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from scheduler.domain.candidate import Candidate, CandidateState, NewCandidate, Source
from scheduler.domain.decision import MeasureBaseline, Retry
from scheduler.domain.errors import CandidateRejected, GitProblem
from scheduler.domain.run import RunKind
from scheduler.git import WorktreeState
from scheduler.lab import Workspace
from scheduler.policy.source import MAX_BYTES, TITLE_CHARACTERS, TRAIN_PY, check_changed_paths, free_name, read_source
from scheduler.queue.runtime import SUBMIT_LOCK_S, exclusive

_REOPENED = {
    CandidateState.DISCARDED: CandidateState.CONTENDER,
    CandidateState.SHELVED: CandidateState.CONTENDER,
    CandidateState.FAILED: CandidateState.OPEN,
    CandidateState.CANCELLED: CandidateState.OPEN,
}
_OUTCOMES = {
    CandidateState.OPEN: "waiting for its first result",
    CandidateState.CONTENDER: "promising, being repeated",
    CandidateState.BASELINE: "the baseline",
    CandidateState.PROMOTED: "a former baseline",
}


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """`again`: a repeat of an earlier candidate is measured once more instead of refused."""

    paths: tuple[Path, ...]
    title: str | None = None
    author: str = "unknown"
    again: bool = False
    dry_run: bool = False


class Refusal(NamedTuple):
    """The candidate breaks a rule."""

    path: Path
    reason: str
    hint: str


class NotSubmitted(NamedTuple):
    """The machine failed: git, a disk, rights. Nothing is held against the candidate, and nothing of it recorded."""

    path: Path
    reason: str
    hint: str


class Submitted(NamedTuple):
    """`candidate` is None in a dry run. `note` tells what was unexpected about it, "" when nothing was."""

    path: Path
    name: str
    candidate: Candidate | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of every path: queued, known, refused, no candidate at all (`skipped`, a note each), failed."""

    queued: tuple[Submitted, ...]
    known: tuple[Candidate, ...]
    refused: tuple[Refusal, ...]
    skipped: tuple[str, ...]
    failed: tuple[NotSubmitted, ...] = ()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Everything this command is about."""
        return (*(one.candidate for one in self.queued if one.candidate), *self.known)

    @property
    def matched_nothing(self) -> bool:
        """Whether no path led to anything that could have been a candidate: a slip on the command line."""
        found = self.queued or self.known or self.failed
        return not found and not any(refusal.path.exists() for refusal in self.refused)


def submit(space: Workspace, request: SubmitRequest) -> Submission:
    """Check every path and queue the good ones, each whole or not at all. Raises LabProblem, LedgerProblem."""
    seen: dict[str, str] = {}
    outcomes: list[Submitted | Candidate | Refusal | NotSubmitted | str] = []
    with exclusive(space.paths.submit_lock, SUBMIT_LOCK_S) as lock:
        lineage = space.lineage()
        places: dict[Path, Path] = {}
        for path in request.paths:
            places.setdefault(path.resolve(), path)
        for path in places.values():
            lock.ensure_held()
            try:
                outcomes.append(_submit_path(space, request, read_path(space, path, lineage), seen))
            except NotACandidate as note:
                outcomes.append(str(note))
            except CandidateRejected as problem:
                outcomes.append(Refusal(path, problem.message, problem.hint))
            except GitProblem as problem:
                outcomes.append(NotSubmitted(path, problem.message, problem.hint))
            except OSError as problem:
                what = f"{problem.strerror or problem}{f': {problem.filename}' if problem.filename else ''}"
                outcomes.append(NotSubmitted(path, what, "see to that, then submit it again"))
    return Submission(
        queued=tuple(one for one in outcomes if isinstance(one, Submitted)),
        known=tuple(one for one in outcomes if isinstance(one, Candidate)),
        refused=tuple(one for one in outcomes if isinstance(one, Refusal)),
        skipped=tuple(one for one in outcomes if isinstance(one, str)),
        failed=tuple(one for one in outcomes if isinstance(one, NotSubmitted)),
    )


def _submit_path(
    space: Workspace, request: SubmitRequest, file: SourceFile, seen: dict[str, str]
) -> Submitted | Candidate:  # fmt: skip
    """Queue a new program; one submitted before from the same place is returned. Raises CandidateRejected, GitProblem.

    `seen` are the programs of this very command, by fingerprint: in a dry run the ledger does not know them.
    """
    check_changed_paths(file.changed)
    source = read_source(file.data)
    earlier = space.ledger.candidates.find_fingerprint(space.tag, source.fingerprint)
    if earlier is not None:
        if request.again:
            return _measure_again(space, request, file, earlier)
        if re.fullmatch(re.escape(file.name) + r"(-[0-9]+)?", earlier.name):
            return earlier
        outcome = describe_outcome(space, earlier)
        message = f"it is the same program as {earlier.id} {earlier.name} ({outcome})"
        raise CandidateRejected(message, "change it, or measure that one once more with --again")
    if source.fingerprint in seen:
        raise CandidateRejected(f"it is the same program as {seen[source.fingerprint]}", "submit one of them")
    names = space.ledger.candidates.names(space.tag)
    name = seen[source.fingerprint] = free_name(file.name, {*names, *seen.values()})
    note = ""
    if file.name in names:
        earlier = space.ledger.candidates.get(file.name, space.tag)
        note = f"{earlier.name} was {earlier.id} ({earlier.state}); this is {name}"
    candidate = None if request.dry_run else _queue(space, request, file, source, name)
    return Submitted(file.path, name, candidate, note)


def _queue(space: Workspace, request: SubmitRequest, file: SourceFile, source: Source, name: str) -> Candidate:
    title = request.title or ""
    if not title and file.worktree is not None and file.worktree.head != file.base_commit:
        title = space.repo.subject(file.worktree.head)
    title = " ".join(title.split())[:TITLE_CHARACTERS] or name
    commit, source = _commit(space, file, source, name, title)
    new = NewCandidate(source, name, commit, file.base_id, title, request.author)
    with space.ledger.transaction():  # a candidate whose commit git does not keep is not recorded
        candidate = space.ledger.candidates.add(space.tag, new)
        space.repo.keep_ref(space.tag, candidate.id, commit)
    return candidate


def _commit(space: Workspace, file: SourceFile, source: Source, name: str, title: str) -> tuple[str, Source]:
    """The candidate's commit and its train.py as git has it (line ends may be git's)."""
    if file.worktree is None:
        return space.repo.commit_train_py(file.base_commit, file.data, title, {"Candidate": name}), source
    if file.worktree.dirty:
        commit, data = space.repo.commit_worktree(file.path.resolve(), title)
    else:
        commit = file.worktree.head
        data = space.repo.read(commit, TRAIN_PY)
    committed = source if data == source.data else read_source(data)
    if committed.fingerprint != source.fingerprint:
        raise CandidateRejected("train.py was changed while it was being submitted", "submit it again")
    return commit, committed


def _measure_again(space: Workspace, request: SubmitRequest, file: SourceFile, candidate: Candidate) -> Submitted:
    """One more run of an earlier candidate. One that was dropped is open for a decision again."""
    if request.dry_run:
        return Submitted(file.path, candidate.name, None, f"{candidate.id} would be measured once more")
    kind = RunKind.BASELINE if candidate.state is CandidateState.BASELINE else RunKind.REPEAT
    space.ledger.runs.add(candidate.id, kind, "asked for with --again")
    reopened = _REOPENED.get(candidate.state)
    if reopened is not None:
        space.ledger.candidates.set_state(candidate.id, candidate.state, reopened, "asked for with --again")
    candidate = space.ledger.candidates.get(candidate.id, space.tag)
    return Submitted(file.path, candidate.name, candidate, f"{candidate.id} is measured once more")


def describe_outcome(space: Workspace, candidate: Candidate) -> str:
    """How a candidate stands: "discarded, val_bpb 1.9523 over 2 runs" or "failed: crash"."""
    standing = space.ledger.board(space.tag).of(candidate.id)
    word = _OUTCOMES.get(standing.state, standing.state.value)
    if standing.n:
        return f"{word}, val_bpb {standing.mean:.4f} over {standing.n} run{'s' if standing.n > 1 else ''}"
    return f"{word}: {standing.failure}" if standing.failure else word


def last_sentence(space: Workspace, candidate: Candidate) -> str:
    """The last verdict on a candidate in its own words; "" while there is none. More runs of a baseline are none."""
    records = space.ledger.decisions.of_candidate(candidate.id)
    verdicts = [record for record in records if not isinstance(record.decision, MeasureBaseline | Retry)]
    return verdicts[-1].sentence if verdicts else ""


_IGNORED = {"__pycache__", ".git", ".gitignore"}  # in a plain folder: no code that could be meant to travel

Lineage = Sequence[tuple[str, str]]  # id and commit of every baseline, the current one last


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


def read_path(space: Workspace, path: Path, lineage: Lineage) -> SourceFile:
    """Look at one path. Raises CandidateRejected with the reason, NotACandidate, GitProblem."""
    if not path.exists():
        raise CandidateRejected(f"{path}: no such file or folder", _near(path))
    if path.is_file():
        if path.suffix != ".py":
            raise NotACandidate(f"{path} is no Python file")
        folder = path.resolve().parent
        if path.name == TRAIN_PY and folder != space.repo.root:
            return _read_folder(space, folder, lineage)
        return SourceFile(path, name_for(path), read_train_py(path), *lineage[-1], (), None)
    if not path.is_dir():
        raise CandidateRejected(f"{path} is no file and no folder", "submit a worktree, a folder or a .py file")
    if not (path / TRAIN_PY).exists():
        inside = any((entry / TRAIN_PY).is_file() for entry in path.iterdir() if entry.is_dir())
        within = f"submit what is in it: arsched submit {path}/*"
        hint = within if inside else "a candidate's folder holds its train.py"
        raise CandidateRejected(f"{path} holds no train.py", hint)
    return _read_folder(space, path, lineage)


def name_for(path: Path) -> str:
    """A candidate's name from a folder's or a file's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name if path.is_dir() else path.stem).strip("-._")[:60]
    return f"idea-{name}" if not name or reads_like_an_id(name) else name


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
        raise CandidateRejected(f"{path} is no regular file", "a candidate is one file, train.py")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            hint = "weights and data do not belong in the source"
            raise CandidateRejected(f"train.py has {size:,} bytes, the limit is {MAX_BYTES:,}", hint)
        return path.read_bytes()
    except PermissionError as problem:
        raise CandidateRejected(f"{path} cannot be read: {problem.strerror}", "check its permissions") from None


def _read_folder(space: Workspace, path: Path, lineage: Lineage) -> SourceFile:
    folder = path.resolve()
    file, name, base = folder / TRAIN_PY, name_for(folder), lineage[-1]
    if not space.repo.has_worktree(folder):
        meant = {entry.name for entry in folder.iterdir() if entry.suffix.lower() not in (".md", ".txt")}
        others = tuple(sorted(meant - {TRAIN_PY} - _IGNORED))
        return SourceFile(path, name, read_train_py(file), *base, (TRAIN_PY, *others), None)
    if folder == space.repo.root:
        state = space.repo.inspect(folder, base[1])
        return SourceFile(path, name, read_train_py(file), *base, state.changed, None)
    state = space.repo.inspect(folder, *(commit for _, commit in lineage))
    base_id = {commit: candidate_id for candidate_id, commit in lineage}[state.base]
    return SourceFile(path, name, read_train_py(file), base_id, state.base, state.changed, state)


def _near(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent} either"
    near = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {path.parent / near[0]}?" if near else f"make one: arsched new {name_for(path)}"
