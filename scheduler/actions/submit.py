"""Candidates from paths into the queue: each one whole or not at all, whatever becomes of its neighbours.

Does not run the queue (drive.py) and prints nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler.actions.admission import Admission, Duplicate, Fresh, Known, admit
from scheduler.actions.outcome import describe_outcome
from scheduler.actions.sources import NotACandidate, Source, read_source
from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.errors import CandidateRejected, GitProblem
from scheduler.domain.run import RunKind
from scheduler.policy.code_lines import count_code_lines
from scheduler.policy.fingerprint import fingerprint
from scheduler.policy.validation import TRAIN_PY, check_train_py
from scheduler.queue.turn import SUBMIT_LOCK_S, exclusive
from scheduler.workspace import Workspace

TITLE_CHARACTERS = 200
_REOPENED = {
    CandidateState.DISCARDED: CandidateState.CONTENDER,
    CandidateState.SHELVED: CandidateState.CONTENDER,
    CandidateState.FAILED: CandidateState.OPEN,
    CandidateState.CANCELLED: CandidateState.OPEN,
}


@dataclass(frozen=True, slots=True)
class Order:
    """`again`: a repeat of an earlier candidate is measured once more instead of refused."""

    paths: tuple[Path, ...]
    title: str | None = None
    author: str = "unknown"
    again: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    path: Path
    reason: str
    hint: str

    @property
    def missing(self) -> bool:
        """Whether there is nothing at that path: a slip on the command line, not a bad candidate."""
        return not self.path.exists()


@dataclass(frozen=True, slots=True)
class Queued:
    """`candidate` is None in a dry run. `note` says what was unexpected about it, "" when nothing was."""

    path: Path
    name: str
    candidate: Candidate | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of every path: queued now, known before, refused, or no candidate at all (`skipped`, a note each)."""

    queued: tuple[Queued, ...]
    known: tuple[Candidate, ...]
    refused: tuple[Refusal, ...]
    skipped: tuple[str, ...]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Everything this command is about."""
        return (*(one.candidate for one in self.queued if one.candidate), *self.known)

    @property
    def matched_nothing(self) -> bool:
        """Whether no path led to anything that could have been a candidate."""
        return not self.queued and not self.known and all(refusal.missing for refusal in self.refused)


def submit(space: Workspace, order: Order) -> Submission:
    """Check every path and queue the good ones. Raises LabProblem, LedgerProblem; a bad candidate is a Refusal."""
    space.baseline()
    seen: dict[str, str] = {}
    outcomes = []
    with exclusive(space.paths.submit_lock, SUBMIT_LOCK_S) as lock:
        for path in unique(order.paths):
            lock.ensure_held()
            outcomes.append(_enter_path(space, order, path, seen))
    return Submission(
        queued=tuple(one for one in outcomes if isinstance(one, Queued)),
        known=tuple(one for one in outcomes if isinstance(one, Candidate)),
        refused=tuple(one for one in outcomes if isinstance(one, Refusal)),
        skipped=tuple(one for one in outcomes if isinstance(one, str)),
    )


def unique(paths: Iterable[Path]) -> Sequence[Path]:
    """The paths in their order, each place once."""
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(path.resolve(), path)
    return list(first.values())


def _enter_path(space: Workspace, order: Order, path: Path, seen: dict[str, str]) -> Queued | Candidate | Refusal | str:
    """What becomes of one path; a note for what is no candidate. `seen`: programs of this very command, by name."""
    try:
        admission = admit(space, read_source(space, path), frozenset(seen.values()))
        _refuse_seen(admission, seen)
        return _enter(space, order, admission)
    except NotACandidate as note:
        return str(note)
    except (CandidateRejected, GitProblem) as problem:
        return Refusal(path, problem.message, problem.hint)


def _refuse_seen(admission: Admission, seen: dict[str, str]) -> None:
    """In a dry run the ledger does not know yet what this very command holds twice."""
    if isinstance(admission, Fresh):
        if admission.fingerprint in seen:
            raise CandidateRejected(f"it is the same program as {seen[admission.fingerprint]}", "submit one of them")
        seen[admission.fingerprint] = admission.name


def _enter(space: Workspace, order: Order, admission: Admission) -> Queued | Candidate:
    match admission:
        case Fresh():
            return _queue(space, order, admission)
        case Known(source, candidate) | Duplicate(source, candidate) if order.again:
            return _measure_again(space, order, source, candidate)
        case Known(_, candidate):
            return candidate
        case Duplicate(_, candidate):
            said = describe_outcome(space, candidate)
            message = f"it is the same program as {candidate.id} {candidate.name} ({said})"
            raise CandidateRejected(message, "change it, or measure that one once more with --again")


def _queue(space: Workspace, order: Order, fresh: Fresh) -> Queued:
    earlier = fresh.renamed_from
    note = "" if earlier is None else f"{earlier.name} was {earlier.id} ({earlier.state}); this is {fresh.name}"
    if order.dry_run:
        return Queued(fresh.source.path, fresh.name, None, note)
    title = _title(space, order, fresh)
    commit, data = _commit(space, fresh, title)
    candidate = space.ledger.candidates.add(
        space.tag,
        name=fresh.name,
        commit=commit,
        base_id=fresh.source.base_id,
        train_py=data,
        train_sha256=hashlib.sha256(data).hexdigest(),
        fingerprint=fresh.fingerprint,
        title=title,
        author=order.author,
        kind=RunKind.NEW,
        code_lines=count_code_lines(check_train_py(data)),
    )
    space.repo.keep_ref(space.tag, candidate.id, commit)
    return Queued(fresh.source.path, fresh.name, candidate, note)


def _commit(space: Workspace, fresh: Fresh, title: str) -> tuple[str, bytes]:
    """The candidate's commit and its train.py as git has it (line ends may be git's)."""
    source = fresh.source
    if source.worktree is None:
        commit = space.repo.commit_train_py(source.base_commit, source.data, title, {"Candidate": fresh.name})
    elif source.worktree.dirty:
        commit = space.repo.commit_worktree(source.path.resolve(), title)
    else:
        commit = source.worktree.head
    data = space.repo.read(commit, TRAIN_PY)
    if fingerprint(check_train_py(data)) != fresh.fingerprint:
        raise CandidateRejected("train.py was changed while it was being submitted", "submit it again")
    return commit, data


def _measure_again(space: Workspace, order: Order, source: Source, candidate: Candidate) -> Queued:
    """One more run of an earlier candidate. One that was dropped is open for a decision again."""
    if order.dry_run:
        return Queued(source.path, candidate.name, None, f"{candidate.id} would be measured once more")
    kind = RunKind.BASELINE if candidate.state is CandidateState.BASELINE else RunKind.REPEAT
    space.ledger.runs.add(candidate.id, kind, "asked for with --again")
    reopened = _REOPENED.get(candidate.state)
    if reopened is not None:
        space.ledger.candidates.set_state(candidate.id, candidate.state, reopened, "asked for with --again")
    candidate = space.ledger.candidates.get(candidate.id, space.tag)
    return Queued(source.path, candidate.name, candidate, f"{candidate.id} is measured once more")


def _title(space: Workspace, order: Order, fresh: Fresh) -> str:
    """--title, else the first line of the worktree's own last commit, else the name."""
    title = order.title or ""
    tree = fresh.source.worktree
    if not title and tree is not None and tree.head != fresh.source.base_commit:
        title = space.repo.subject(tree.head)
    return " ".join(title.split())[:TITLE_CHARACTERS] or fresh.name
