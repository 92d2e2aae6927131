"""The end of a search: what is undecided is decided, then the claim is measured on fresh runs alone.

First and final baseline are run anew, alternately on the same slots (the placer's part) and with the same seeds, which
no other run of the lab has. A scheduler that is killed
here goes on where it was: what was measured is found in the ledger. Also what a search has spent, the claim included.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scheduler.domain.candidate import CandidateState, CandidateStats, Occasion, Origin, group_clones
from scheduler.domain.decision import Claim
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Cancelled, Finished, Infra, Queued, Run, RunKind, Running, Scored, held_s
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


def spent(space: Workspace, search: Search, board: LabSnapshot, *, ideas: int, open_asks: int, owed: bool) -> Spent:
    """What a search has spent so far. `ideas` are its new candidates; `owed`: see `Spent.owes_idea`."""
    base, runs = board.baseline, space.ledger.runs.count_of_ideas(space.tag, search.started_at)
    return Spent(
        active_s=search.active_s,
        runs=runs.get("finished", 0),
        running=runs.get("running", 0),
        queued=runs.get("queued", 0),
        ideas=ideas,
        undecided=len(board.undecided) + open_asks,
        owes_idea=owed,
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
        nothing = stats_of(board.of(first_id), ())
        return ClaimResult(make_claim(nothing, nothing, noise, prior_df), "no improvement found")
    if not wanted:
        return ClaimResult(None, "no claim was asked for")
    first, final = (_claim_runs(space, search, ref) for ref in (first_id, final_id))
    if _queue_missing(space, search, {first_id: first, final_id: final}):
        return None
    if any(isinstance(run.state, Queued | Running) for run in (*first, *final)):
        return None
    sides = stats_of(board.of(first_id), first), stats_of(board.of(final_id), final)
    for side in sides:
        if not side.n:
            return ClaimResult(None, f"nothing to claim: none of the claim's runs of {side.candidate_id} gave a score")
    return ClaimResult(make_claim(*sides, noise, prior_df), "the claim is measured")


def stats_of(standing: CandidateStats, runs: Sequence[Run]) -> CandidateStats:
    """The candidate as if these runs were all it had."""
    scores, occasions = [score for score, _ in _scored(runs)], [occasion for _, occasion in _scored(runs)]
    return replace(standing, scores=tuple(scores), occasions=tuple(occasions), suspect_scores=0)


def _scored(runs: Sequence[Run]) -> list[tuple[float, Occasion]]:
    """Clones are one score's worth of evidence."""
    scored = [
        (run.state.result.verdict.val_bpb, _occasion(run.seed, run.state))
        for run in runs
        if isinstance(run.state, Finished) and isinstance(run.state.result.verdict, Scored)
    ]
    return [scored[group[0]] for group in group_clones([score for score, _ in scored])]


def _occasion(seed: int, state: Finished) -> Occasion:
    measured = state.result.measured
    middle = state.started_at + held_s(state.started_at, state.finished_at, measured.wall_s) / 2
    return Occasion(middle, state.slot_id, seed, measured.machine.speed, dict(measured.phases_s).get("train"))


def _queue_missing(space: Workspace, search: Search, sides: Mapping[str, Sequence[Run]]) -> bool:
    """Queue what each side still needs, in turns; whether there was anything.

    A seed that the other side has goes first: runs with one seed are the closest comparison.
    """
    wanted = search.settings.claim_runs
    missing = {ref: _missing(runs, wanted) for ref, runs in sides.items()}
    seeds = {ref: {run.seed for run in runs if not _is_void(run)} for ref, runs in sides.items()}
    for turn in range(max(missing.values())):
        for ref in (ref for ref in sides if turn < missing[ref]):
            unpaired = set().union(*seeds.values()) - seeds[ref]
            seed = min(unpaired, default=None) or space.ledger.runs.fresh_seed(space.tag)
            space.ledger.runs.add(ref, RunKind.CLAIM, f"claim of search {search.number}", seed)
            seeds[ref].add(seed)
    return any(missing.values())


def _is_void(run: Run) -> bool:
    """Over, without a word on its program: its seed is free."""
    if isinstance(run.state, Finished):
        return isinstance(run.state.result.verdict, Infra)
    return isinstance(run.state, Cancelled)


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
    failed = over - len(_scored(runs))
    return max(0, wanted + min(failed, REPLACEMENTS) - len(runs))


def _is_unbegun(run: Run) -> bool:
    """Queued and never on a slot, or cancelled before it was."""
    return run.kind is RunKind.NEW and run.attempts == 0
