"""Wait until candidates are decided and runs have ended. Reads the ledger; runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.run import Cancelled, Finished, Queued, Run, Running, Scored
from scheduler.domain.text import one_line
from scheduler.lab import Workspace, find, is_paused
from scheduler.views import View

LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Awaited(View):
    """One thing waited for. `over`: nothing more will come of it by itself; `ok`: it ended with a score."""

    subject: str
    name: str
    over: bool
    ok: bool
    status: str
    val_bpb: float | None


@dataclass(frozen=True, slots=True)
class Wait(View):
    """What was waited for as it stands now. `paused`: it is not over, and nothing will come before the lab goes on."""

    all_over: bool
    timed_out: bool
    paused: bool
    awaited: tuple[Awaited, ...]

    @property
    def all_ok(self) -> bool:
        return self.all_over and all(one.ok for one in self.awaited)


def wait_for(
    space: Workspace, refs: Sequence[str], *, timeout_s: float | None,
    clock: Callable[[], float], sleep: Callable[[float], None], report: Callable[[Wait], None],
) -> Wait:  # fmt: skip
    """Look again and again until all of `refs` have ended or the time has. `report` gets every look.

    `clock` in seconds of any origin. Raises UsageProblem for a ref that is not there,
    LedgerProblem when no change can be seen.
    """
    deadline = None if timeout_s is None else clock() + timeout_s
    while True:
        seen = tuple(_look(space, find(space, ref)) for ref in refs)
        over = all(one.over for one in seen)
        late = not over and deadline is not None and clock() >= deadline
        paused = not over and is_paused(space) and not space.ledger.runs.running(space.tag)
        now = Wait(over, late, paused, seen)
        if over or late or paused:
            return now
        report(now)
        space.ledger.ensure_current()
        sleep(LOOK_S)


def undecided(space: Workspace) -> tuple[str, ...]:
    """Ids of everything that is not decided yet: what a wait without ids waits for."""
    return tuple(c.id for c in space.ledger.candidates.list(space.tag) if not _is_over(space, c))


def _look(space: Workspace, found: Candidate | Run) -> Awaited:
    if isinstance(found, Candidate):
        standing, state = space.ledger.board(space.tag).of(found.id), found.state
        ok = state not in (CandidateState.FAILED, CandidateState.CANCELLED) and standing.n > 0
        score = standing.mean if standing.n else None
        return Awaited(found.id, one_line(found.name), _is_over(space, found), ok, state.value, score)
    verdict = found.state.result.verdict if isinstance(found.state, Finished) else None
    score = verdict.val_bpb if isinstance(verdict, Scored) else None
    name = one_line(space.ledger.candidates.get(found.candidate_id, space.tag).name)
    status = one_line(verdict.status) if verdict else type(found.state).__name__.lower()
    over = isinstance(found.state, Finished | Cancelled)
    return Awaited(found.id, name, over, isinstance(verdict, Scored), status, score)


def _is_over(space: Workspace, candidate: Candidate) -> bool:
    """Decided, and for a baseline: measured as often as was asked for."""
    if candidate.state is CandidateState.BASELINE:
        return not any(isinstance(r.state, Queued | Running) for r in space.ledger.runs.of_candidate(candidate.id))
    return not candidate.state.undecided
