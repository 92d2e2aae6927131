"""The end of a search: what is undecided is decided, then the claim is measured on fresh runs alone.

First and final baseline are run anew, alternately on the same slots (the placer's part). A scheduler that is killed
here goes on where it was: what was measured is found in the ledger. Also what a search has spent, the claim included.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.domain.candidate import CandidateState, Origin, group_clones
from scheduler.domain.decision import Claim
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Cancelled, Finished, Queued, Run, RunKind, Running, Scored
from scheduler.domain.search import Search
from scheduler.lab import Workspace
from scheduler.policy.budget import Spent, claim_time_s
from scheduler.policy.stats import lab_noise, make_claim

REPLACEMENTS = 2  # of failed claim runs, for each of the two baselines
NOT_BEGUN = "the search ended before it began"
UNKNOWN_RUN_S = 360.0  # until a run of the lab is over: a training budget of five minutes and what is around it


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The claim, or why there is none."""

    claim: Claim | None
    reason: str


def spent(space: Workspace, search: Search, board: LabSnapshot, *, ideas: int, open_asks: int) -> Spent:
    """What a search has spent so far. `ideas` are its new candidates."""
    runs, base = space.ledger.runs, board.baseline
    return Spent(
        active_s=search.active_s,
        runs=runs.count_finished(space.tag, search.started_at),
        running=sum(run.kind is not RunKind.CLAIM for run in runs.running(space.tag)),
        ideas=ideas,
        undecided=len(board.undecided) + open_asks,
        baseline_mean=base.mean if base.n else None,
        baseline_runs=base.n,
    )


def claim_estimate_s(space: Workspace, search: Search, board: LabSnapshot, slots: int) -> float:
    """How long the end of the search will take, by the usual length of a run."""
    lengths = space.ledger.runs.last_lengths_s(space.tag)
    run_s = statistics.median(lengths) if lengths else UNKNOWN_RUN_S
    return claim_time_s(search.settings.claim_runs, slots, run_s, promoted=not board.first_baseline)


def cancel_unbegun(space: Workspace, board: LabSnapshot) -> int:
    """Cancel the proposed candidates no slot has ever had. Returns how many."""
    cancelled = 0
    for standing in board.undecided:
        if standing.state is CandidateState.OPEN and standing.origin is Origin.PROPOSED and not standing.n:
            runs = space.ledger.runs.of_candidate(standing.candidate_id)
            if all(_is_unbegun(run) for run in runs):
                cancelled += space.ledger.candidates.cancel(standing.candidate_id, NOT_BEGUN) is not None
    return cancelled


def is_drained(space: Workspace, board: LabSnapshot) -> bool:
    """Whether all that had begun is decided: only what users submitted and no slot has had yet may wait."""
    runs = (run for standing in board.undecided for run in space.ledger.runs.of_candidate(standing.candidate_id))
    return all(_is_unbegun(run) for run in runs)


def may_start_while_closing(run: Run, *, drained: bool) -> bool:
    """What a search's end waits for goes first; new candidates of others wait for the claim."""
    if drained:
        return run.kind is RunKind.CLAIM
    return run.kind is not RunKind.CLAIM and not _is_unbegun(run)


def measure_claim(space: Workspace, search: Search, board: LabSnapshot) -> ClaimResult | None:
    """Queue what the claim still needs; its result once nothing more is to come, None before."""
    lineage, wanted = space.lineage(), search.settings.claim_runs
    first_id, final_id = lineage[0][0], lineage[-1][0]
    noise, prior_df = lab_noise(board), board.gates.prior_df
    if first_id == final_id:
        return ClaimResult(make_claim(first_id, final_id, (), (), noise, prior_df), "no improvement found")
    if not wanted:
        return ClaimResult(None, "no claim was asked for")
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
            return ClaimResult(None, f"nothing to claim: none of the claim's runs of {ref} gave a score")
    return ClaimResult(make_claim(first_id, final_id, *scores, noise, prior_df), "the claim is measured")


def _claim_runs(space: Workspace, search: Search, ref: str) -> list[Run]:
    """The claim's runs of one baseline. Those of an earlier search had ended before this one began."""
    runs = [run for run in space.ledger.runs.of_candidate(ref) if run.kind is RunKind.CLAIM]
    return [run for run in runs if not _ended_before(run, search.started_at)]


def _ended_before(run: Run, at: float) -> bool:
    match run.state:
        case Finished(started_at=began):
            return began < at
        case Cancelled(at=cancelled):
            return cancelled < at
    return False


def _missing(runs: Sequence[Run], wanted: int) -> int:
    """How many more to queue: failed ones are replaced, up to a limit."""
    over = sum(isinstance(run.state, Finished | Cancelled) for run in runs)
    failed = over - len(_scores(runs))
    return max(0, wanted + min(failed, REPLACEMENTS) - len(runs))


def _scores(runs: Sequence[Run]) -> tuple[float, ...]:
    verdicts = [run.state.result.verdict for run in runs if isinstance(run.state, Finished)]
    scores = [verdict.val_bpb for verdict in verdicts if isinstance(verdict, Scored)]
    return tuple(scores[group[0]] for group in group_clones(scores))  # clones are one score's worth of evidence


def _is_unbegun(run: Run) -> bool:
    """Queued and never on a slot, or cancelled before it was."""
    return run.kind is RunKind.NEW and run.attempts == 0
