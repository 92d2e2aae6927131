"""Candidates from paths into the queue: each one whole or not at all, whatever becomes of its neighbours.

What a path is, actions.sources says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from scheduler.actions.sources import (
    Checkout,
    Lineage,
    NotACandidate,
    SourceFile,
    distinct,
    find_place,
    is_carried,
    is_there,
    read_path,
)
from scheduler.domain.candidate import Candidate, CandidateState, NewCandidate, Source
from scheduler.domain.decision import MeasureBaseline, Retry
from scheduler.domain.errors import CandidateRejected, GitProblem, UsageProblem
from scheduler.domain.run import RunKind
from scheduler.domain.text import count
from scheduler.lab import Workspace
from scheduler.policy.source import TITLE_CHARACTERS, TRAIN_PY, check_changed_paths, free_name, read_source
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
    """`candidate` is None in a dry run. `note` tells what was unexpected about it, "" when nothing was.

    `verdicts` are those on it before.
    """

    path: Path
    name: str
    candidate: Candidate | None
    note: str = ""
    verdicts: int = 0


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
        return not found and not any(no.path.exists() or is_carried(no.path) for no in self.refused)


def unread(path: Path, problem: OSError) -> NotSubmitted:
    """What is said of a path that the machine, not the candidate, kept from being read."""
    what = f"{problem.strerror or problem}{f': {problem.filename}' if problem.filename else ''}"
    return NotSubmitted(path, what, "see to that, then submit it again")


def submit(space: Workspace, request: SubmitRequest) -> Submission:
    """Check every path and queue the good ones, each whole or not at all. Raises LabProblem, LedgerProblem."""
    seen: dict[str, str] = {}
    outcomes: list[Submitted | Candidate | Refusal | NotSubmitted | str] = []
    with exclusive(space.paths.submit_lock, SUBMIT_LOCK_S) as lock:
        lineage = space.lineage()
        for path in distinct(find_place(space.paths, path) for path in request.paths):
            lock.ensure_held()
            try:
                outcomes.append(_submit_path(space, request, path, lineage, seen))
            except NotACandidate as note:
                outcomes.append(str(note))
            except CandidateRejected as problem:
                outcomes.append(Refusal(path, problem.message, problem.hint))
            except GitProblem as problem:
                outcomes.append(NotSubmitted(path, problem.message, problem.hint))
            except OSError as problem:
                outcomes.append(unread(path, problem))
    return Submission(
        queued=tuple(one for one in outcomes if isinstance(one, Submitted)),
        known=tuple(one for one in outcomes if isinstance(one, Candidate)),
        refused=tuple(one for one in outcomes if isinstance(one, Refusal)),
        skipped=tuple(one for one in outcomes if isinstance(one, str)),
        failed=tuple(one for one in outcomes if isinstance(one, NotSubmitted)),
    )


def _submit_path(
    space: Workspace, request: SubmitRequest, path: Path, lineage: Lineage, seen: dict[str, str]
) -> Submitted | Candidate:  # fmt: skip
    """What the path holds; else the candidate that it names. Raises CandidateRejected, NotACandidate, GitProblem."""
    recorded = None if is_there(path) else _recorded(space, path)
    if recorded is None:
        return _submit_file(space, request, read_path(space, path, lineage), seen)
    return _measure_again(space, request, path, recorded) if request.again else recorded


def _recorded(space: Workspace, path: Path) -> Candidate | None:
    """The candidate whose id or name was typed in place of a path."""
    try:
        return space.ledger.candidates.get(str(path), space.tag)
    except UsageProblem:
        return None


def _submit_file(
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
            return _measure_again(space, request, file.path, earlier)
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
    title = title_of(space, file, request.title, name)
    commit, source = commit_source(space, file, source, name, title)
    new = NewCandidate(source, name, commit, file.base_id, title, request.author)
    with space.ledger.transaction():  # a candidate whose commit git does not keep is not recorded
        candidate = space.ledger.candidates.add(space.tag, new)
        space.repo.keep_ref(space.tag, candidate.id, commit)
    return candidate


def title_of(space: Checkout, file: SourceFile, given: str | None, name: str) -> str:
    """What was given, else the subject of the worktree's last commit, else the name."""
    title = given or ""
    if not title and file.worktree is not None and file.worktree.head != file.base_commit:
        title = space.repo.subject(file.worktree.head)
    return " ".join(title.split())[:TITLE_CHARACTERS] or name


def commit_source(space: Checkout, file: SourceFile, source: Source, name: str, title: str) -> tuple[str, Source]:
    """The candidate's commit and its train.py as that has it: a commit of its own where git's is not normalised."""
    if file.worktree is None or file.worktree.others_committed:
        return space.repo.commit_train_py(file.base_commit, source.data, title, {"Candidate": name}), source
    if file.worktree.dirty:
        commit, data = space.repo.commit_worktree(file.path.resolve(), title)
    else:
        commit = file.worktree.head
        data = space.repo.read(commit, TRAIN_PY)
    committed = source if data == source.data else read_source(data)
    if committed.fingerprint != source.fingerprint:
        raise CandidateRejected("train.py was changed while it was being submitted", "submit it again")
    if committed.data != data:
        commit = space.repo.commit_train_py(file.base_commit, committed.data, title, {"Candidate": name})
    return commit, committed


def _measure_again(space: Workspace, request: SubmitRequest, path: Path, candidate: Candidate) -> Submitted:
    """One more run of an earlier candidate. One that was dropped is open for a decision again."""
    if request.dry_run:
        return Submitted(path, candidate.name, None, f"{candidate.id} would be measured once more")
    kind = RunKind.BASELINE if candidate.state is CandidateState.BASELINE else RunKind.REPEAT
    space.ledger.runs.add(candidate.id, kind, "asked for with --again")
    reopened = _REOPENED.get(candidate.state)
    if reopened is not None:
        space.ledger.candidates.set_state(candidate.id, candidate.state, reopened, "asked for with --again")
    candidate = space.ledger.candidates.get(candidate.id, space.tag)
    note = f"{candidate.id} is measured once more"
    return Submitted(path, candidate.name, candidate, note, len(_verdicts(space, candidate)))


def describe_outcome(space: Workspace, candidate: Candidate) -> str:
    """How a candidate stands: "discarded, val_bpb 1.9523 over 2 runs" or "failed: crash"."""
    standing = space.ledger.board(space.tag).of(candidate.id)
    word = _OUTCOMES.get(standing.state, standing.state.value)
    if standing.n:
        return f"{word}, val_bpb {standing.mean:.4f} over {count(standing.n, 'run')}"
    return f"{word}: {standing.failure}" if standing.failure else word


def last_sentence(space: Workspace, candidate: Candidate, after: int = 0) -> str:
    """The last verdict on a candidate in its own words; "" while there is none but the first `after`."""
    verdicts = _verdicts(space, candidate)
    return verdicts[-1] if len(verdicts) > after else ""


def _verdicts(space: Workspace, candidate: Candidate) -> list[str]:
    """Sentences of all verdicts on a candidate. More runs of a baseline are none."""
    records = space.ledger.decisions.of_candidate(candidate.id)
    return [record.sentence for record in records if not isinstance(record.decision, MeasureBaseline | Retry)]
