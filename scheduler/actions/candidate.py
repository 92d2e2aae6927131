"""What a user does to one candidate: its worktree is made, it is promoted by hand, or taken out of the queue."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from scheduler.actions.sources import Checkout, can_name_branch, reads_like_an_id
from scheduler.domain.candidate import Candidate, CandidateState, CandidateStats
from scheduler.domain.decision import Promote
from scheduler.domain.errors import NameTaken, NotYet, UsageProblem
from scheduler.domain.run import Queued, Run, Running
from scheduler.lab import Workspace, find
from scheduler.policy.explain import explain_decision
from scheduler.policy.stats import effect_of, lab_noise
from scheduler.queue.decide import follow_ledger, look, promote

CANCELLED, PROMOTED = "cancelled by hand", "promoted by hand"  # reasons on record
_NOT_PROMOTABLE = (CandidateState.BASELINE, CandidateState.PROMOTED, CandidateState.CANCELLED)


class NewWorktree(NamedTuple):
    path: Path
    branch: str
    base: Candidate
    commit: str


def new_worktree(space: Workspace, name: str, *, dry_run: bool = False) -> NewWorktree:
    """Make `candidates/<name>` on the branch arsched/<tag>/<name>. Raises UsageProblem, NameTaken, GitProblem."""
    base, commit = space.baseline(), space.baseline_commit()
    return NewWorktree(*place_worktree(space, space.tag, name, commit, dry_run=dry_run), base, commit)


def place_worktree(space: Checkout, tag: str, name: str, commit: str, *, dry_run: bool) -> tuple[Path, str]:
    """The folder `candidates/<name>` and its branch, made on a commit. Raises UsageProblem, NameTaken, GitProblem."""
    if not can_name_branch(name, longest=64):
        hint = "letters, digits, '-', '_' and '.', at most 64, beginning with a letter or digit: wider-mlp"
        raise UsageProblem(f"{name!r} cannot name a candidate", hint)
    if reads_like_an_id(name):
        raise UsageProblem(f"{name!r} reads like an id", "choose a name that says what the idea is: wider-mlp")
    path, branch = space.paths.candidates / name, f"arsched/{tag}/{name}"
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise NameTaken(
            f"{path} exists already", f"submit what is there (arsched submit {name}), or choose another name"
        )
    if space.repo.branch_commit(branch) not in (None, commit):
        hint = f"go on with it (git worktree add {shlex.quote(str(path))} {branch}), or choose another name"
        raise NameTaken(f"the branch {branch!r} exists and holds an earlier idea of that name", hint)
    if not dry_run:
        space.repo.exclude((f"/{path.parent.name}/*",))  # the folder may have become a link since
        space.repo.add_worktree(path, commit, branch)
    return path, branch


class Promoted(NamedTuple):
    """`commit` is "" in a dry run; `followed` is the checkout that went along, "" when there is none."""

    candidate: Candidate
    decision: Promote
    sentence: str
    commit: str = ""
    followed: str = ""


def promote_by_hand(space: Workspace, ref: str, *, dry_run: bool = False) -> Promoted:
    """The same commit, record and branch as by the rule, which is not asked; the record shows that, and the effect.

    A candidate needs a trusted score: nothing could be compared with a baseline that has none. Raises UsageProblem,
    NotYet when it has no score yet, LedgerProblem, GitProblem, LabProblem.
    """
    candidate, given = space.ledger.candidates.get(ref, space.tag), look(space)
    standing, base = given.board.of(candidate.id), given.board.baseline
    _check_promotable(candidate, standing, base, is_queued=bool(pending_runs(space, candidate.id)))
    effect = effect_of(standing, base, lab_noise(given.board))
    decision = Promote(candidate.id, base.candidate_id, effect, PROMOTED)
    sentence = f"{explain_decision(decision, candidate.name)}  by hand"
    if dry_run:
        return Promoted(candidate, decision, sentence)
    if not candidate.state.undecided:
        space.ledger.candidates.set_state(candidate.id, candidate.state, CandidateState.CONTENDER, PROMOTED)
    commit = promote(space, given, decision, sentence)
    return Promoted(candidate, decision, sentence, commit, follow_ledger(space))


def _check_promotable(candidate: Candidate, standing: CandidateStats, base: CandidateStats, *, is_queued: bool) -> None:
    who = f"{candidate.id} {candidate.name}"
    if candidate.state in _NOT_PROMOTABLE:
        raise NotYet(f"{who} is {candidate.state}, nothing was changed", "see: arsched leaderboard")
    if not standing.n or standing.n == standing.suspect_scores:
        what = "only suspect scores" if standing.n else "no score"
        again = f"run it (again): arsched submit --again {candidate.id}"
        raise NotYet(f"{who} has {what} yet", "a run of it is to come: arsched submit" if is_queued else again)
    if not base.n:
        raise NotYet("the baseline has no score yet", "run it first: arsched submit")


class CancelReport(NamedTuple):
    """`running` are the runs that were going on. `candidate` is the one decided on by this, None for a single run."""

    candidate: Candidate | None
    runs: tuple[str, ...]
    running: tuple[str, ...]


def cancel(space: Workspace, ref: str, *, dry_run: bool = False) -> CancelReport:
    """Cancel a candidate, a run, or "last" for the newest candidate; the loop stops what runs within a second.

    Raises UsageProblem, NotYet when it has ended already.
    """
    found = find(space, ref)
    return _cancel_run(space, found, dry_run) if isinstance(found, Run) else _cancel_candidate(space, found, dry_run)


def _cancel_candidate(space: Workspace, candidate: Candidate, dry_run: bool) -> CancelReport:
    if not candidate.state.undecided:
        message = f"{candidate.id} {candidate.name} is {candidate.state} already, nothing was changed"
        raise NotYet(message, f"its runs one by one: arsched cancel RUN; what it has: arsched show {candidate.id}")
    pending = pending_runs(space, candidate.id)
    running = tuple(run.id for run in pending if isinstance(run.state, Running))
    if not dry_run and space.ledger.candidates.cancel(candidate.id, CANCELLED) is None:
        raise NotYet(f"{candidate.id} was decided meanwhile", f"see: arsched show {candidate.id}")
    return CancelReport(candidate, tuple(run.id for run in pending), running)


def _cancel_run(space: Workspace, run: Run, dry_run: bool) -> CancelReport:
    """A candidate whose last run goes without a score goes with it: no decision would ever come."""
    candidate = space.ledger.candidates.get(run.candidate_id, space.tag)
    pending = [other for other in pending_runs(space, candidate.id) if other.id != run.id]
    scored = bool(space.ledger.board(space.tag).of(candidate.id).scores)
    if candidate.state.undecided and not pending and not scored:
        return _cancel_candidate(space, candidate, dry_run)
    if not isinstance(run.state, Queued | Running):
        raise NotYet(f"{run.id} is over already, nothing was changed", f"what came of it: arsched show {run.id}")
    if not dry_run and not space.ledger.runs.cancel(run.id, CANCELLED):
        raise NotYet(f"{run.id} ended meanwhile", f"what came of it: arsched show {run.id}")
    return CancelReport(None, (run.id,), (run.id,) if isinstance(run.state, Running) else ())


def pending_runs(space: Workspace, candidate_id: str) -> list[Run]:
    """Runs of a candidate that are queued or running."""
    return [run for run in space.ledger.runs.of_candidate(candidate_id) if isinstance(run.state, Queued | Running)]
