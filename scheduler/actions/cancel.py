"""Take a candidate or a run out of the queue. What runs is stopped by whoever runs the queue, within a second."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import NotYet
from scheduler.domain.run import Queued, Run, Running
from scheduler.workspace import Workspace

_RUN = re.compile(r"r0*[1-9][0-9]*")
REASON = "cancelled by hand"


@dataclass(frozen=True, slots=True)
class Cancelled:
    """`running` are the runs that were going on. `candidate` is the one decided on by this, None for a single run."""

    candidate: Candidate | None
    runs: tuple[str, ...]
    running: tuple[str, ...]


def cancel(space: Workspace, ref: str, *, dry_run: bool = False) -> Cancelled:
    """`ref` is a candidate, a run, or "last" for the newest candidate. Raises UsageProblem, NotYet when it is over."""
    if _RUN.fullmatch(ref):
        return _cancel_run(space, space.ledger.runs.get(ref, space.tag), dry_run)
    return _cancel_candidate(space, space.ledger.candidates.get(ref, space.tag), dry_run)


def _cancel_candidate(space: Workspace, candidate: Candidate, dry_run: bool) -> Cancelled:
    if not candidate.state.undecided:
        message = f"{candidate.id} {candidate.name} is {candidate.state} already, nothing was changed"
        raise NotYet(message, f"its runs one by one: arsched cancel RUN; what it has: arsched show {candidate.id}")
    pending = [run for run in space.ledger.runs.of_candidate(candidate.id) if isinstance(run.state, Queued | Running)]
    running = tuple(run.id for run in pending if isinstance(run.state, Running))
    if not dry_run and space.ledger.candidates.cancel(candidate.id, REASON) is None:
        raise NotYet(f"{candidate.id} was decided this moment", f"see: arsched show {candidate.id}")
    return Cancelled(candidate, tuple(run.id for run in pending), running)


def _cancel_run(space: Workspace, run: Run, dry_run: bool) -> Cancelled:
    """A candidate whose last run goes without a score goes with it: no decision would ever come."""
    candidate = space.ledger.candidates.get(run.candidate_id, space.tag)
    others = [other for other in space.ledger.runs.of_candidate(candidate.id) if other.id != run.id]
    pending = any(isinstance(other.state, Queued | Running) for other in others)
    scored = bool(space.ledger.board(space.tag).of(candidate.id).scores)
    if candidate.state.undecided and not pending and not scored:
        return _cancel_candidate(space, candidate, dry_run)
    if not isinstance(run.state, Queued | Running):
        raise NotYet(f"{run.id} is over already, nothing was changed", f"what came of it: arsched show {run.id}")
    if not dry_run and not space.ledger.runs.cancel(run.id, REASON):
        raise NotYet(f"{run.id} ended this moment", f"what came of it: arsched show {run.id}")
    return Cancelled(None, (run.id,), (run.id,) if isinstance(run.state, Running) else ())
