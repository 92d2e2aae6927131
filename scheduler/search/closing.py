"""The end of a search: what is undecided is decided, then the claim is measured on fresh runs alone.

First and final baseline are run anew, alternately on the same slots (the placer's part). A scheduler that is killed
here goes on where it was: what was measured is found in the ledger. Begins no idea.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.domain.candidate import CandidateState, Origin
from scheduler.domain.claim import Claim
from scheduler.domain.lab import Board
from scheduler.domain.result import Scored
from scheduler.domain.run import Cancelled, Finished, Queued, Run, RunKind, Running
from scheduler.domain.search import Search
from scheduler.policy.claim import make_claim
from scheduler.policy.noise import board_noise
from scheduler.workspace import Workspace

REPLACEMENTS = 2  # of failed claim runs, for each of the two baselines
THE_END = "the search ended before it began"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The claim, or why there is none."""

    claim: Claim | None
    reason: str


def cancel_unbegun(space: Workspace, board: Board) -> int:
    """Cancel the proposed candidates no slot has ever had. Returns how many."""
    cancelled = 0
    for standing in board.undecided:
        if standing.state is CandidateState.OPEN and standing.origin is Origin.PROPOSED and not standing.n:
            runs = space.ledger.runs.of_candidate(standing.candidate_id)
            if all(_is_unbegun(run) for run in runs):
                cancelled += space.ledger.candidates.cancel(standing.candidate_id, THE_END) is not None
    return cancelled


def is_drained(space: Workspace, board: Board) -> bool:
    """Whether all that had begun is decided: only what somebody submitted and no slot has had yet may wait."""
    for standing in board.undecided:
        if not all(_is_unbegun(run) for run in space.ledger.runs.of_candidate(standing.candidate_id)):
            return False
    return True


def may_start_while_closing(run: Run, *, drained: bool) -> bool:
    """What a search's end waits for goes first; new candidates of others wait for the claim."""
    if drained:
        return run.kind is RunKind.CLAIM
    return run.kind is not RunKind.CLAIM and not _is_unbegun(run)


def measure_claim(space: Workspace, search: Search, board: Board) -> Outcome | None:
    """Queue what the claim still needs; the outcome once nothing more is to come, None before."""
    lineage, wanted = space.lineage(), search.settings.claim_runs
    first_id, final_id = lineage[0][0], lineage[-1][0]
    if first_id == final_id:
        return Outcome(
            make_claim(first_id, final_id, (), (), board_noise(board), board.gates.prior_df), "no improvement found"
        )
    if not wanted:
        return Outcome(None, "no claim was asked for")
    first, final = (_claim_runs(space, search, ref) for ref in (first_id, final_id))
    missing = _missing(first, wanted), _missing(final, wanted)
    for turn in range(max(missing)):
        for ref, count in ((first_id, missing[0]), (final_id, missing[1])):
            if turn < count:
                space.ledger.runs.add(ref, RunKind.CLAIM, f"claim of search {search.number}")
    if any(missing) or any(isinstance(run.state, Queued | Running) for run in (*first, *final)):
        return None
    scores = _scores(first), _scores(final)
    for ref, got in zip((first_id, final_id), scores, strict=True):
        if not got:
            return Outcome(None, f"nothing to claim: none of the claim's runs of {ref} gave a score")
    return Outcome(
        make_claim(first_id, final_id, *scores, board_noise(board), board.gates.prior_df), "the claim is measured"
    )


def _claim_runs(space: Workspace, search: Search, ref: str) -> list[Run]:
    """The claim's runs of one baseline. Those of an earlier search had ended before this one began."""
    runs = [run for run in space.ledger.runs.of_candidate(ref) if run.kind is RunKind.CLAIM]
    return [run for run in runs if _touched_at(run, search) >= search.started_at]


def _touched_at(run: Run, search: Search) -> float:
    match run.state:
        case Finished(started_at=at) | Cancelled(at=at):
            return at
    return search.started_at


def _missing(runs: Sequence[Run], wanted: int) -> int:
    """How many more to queue: failed ones are replaced, but not for ever."""
    over = sum(isinstance(run.state, Finished | Cancelled) for run in runs)
    failed = over - len(_scores(runs))
    return max(0, wanted + min(failed, REPLACEMENTS) - len(runs))


def _scores(runs: Sequence[Run]) -> tuple[float, ...]:
    verdicts = [run.state.result.verdict for run in runs if isinstance(run.state, Finished)]
    return tuple(verdict.val_bpb for verdict in verdicts if isinstance(verdict, Scored))


def _is_unbegun(run: Run) -> bool:
    """Queued and never on a slot, or cancelled before it was."""
    return run.kind is RunKind.NEW and run.attempts == 0
