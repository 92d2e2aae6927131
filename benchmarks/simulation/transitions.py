"""What a decision or a result changes in a lab: a snapshot in, the next one out, written from the rule's words.

The ledger does the same with rows; this shares no code with it. Decides nothing and knows no clock.
"""

from __future__ import annotations

from dataclasses import replace

from scheduler.domain.candidate import CandidateState, CandidateStats, FirstScore, Occasion, Origin
from scheduler.domain.decision import (
    Combine,
    Decision,
    Discard,
    MeasureBaseline,
    Merge,
    Promote,
    Replicate,
    Retry,
    Shelve,
)
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.text import id_order
from scheduler.policy.population import MOST_FIRSTS


def applied(lab: LabSnapshot, decision: Decision) -> LabSnapshot:
    """After a decision. Of a merge every part goes in."""
    match decision:
        case Promote(candidate_id=winner, base_id=loser):
            lab = changed(lab, loser, state=CandidateState.PROMOTED)
            lab = changed(lab, winner, state=CandidateState.BASELINE)
            return replace(lab, baseline_id=winner, first_baseline=False, left_out=0)
        case Replicate(candidate_id=ref):
            return changed(lab, ref, state=CandidateState.CONTENDER, pending_runs=lab.of(ref).pending_runs + 1)
        case Discard(candidate_id=ref, effect=effect):
            return changed(lab, ref, state=CandidateState.DISCARDED if effect else CandidateState.FAILED)
        case Shelve(candidate_id=ref):
            return changed(lab, ref, state=CandidateState.SHELVED)
        case MeasureBaseline(base_id=ref) | Retry(candidate_id=ref):
            return changed(lab, ref, pending_runs=lab.of(ref).pending_runs + 1)
        case Combine(parts=parts):
            return merged(lab, decision, parts)


def merged(lab: LabSnapshot, decision: Combine, went_in: tuple[str, ...], new_id: str = "") -> LabSnapshot:
    """After a merge: the undecided parts are shelved, and what went in is a contender with one run queued.

    `new_id` is that contender's; the next free number when it is not given.
    """
    for part in decision.parts:
        if lab.of(part).state.undecided:
            lab = changed(lab, part, state=CandidateState.SHELVED)
    last = max((s.candidate_id for s in lab.standings), key=id_order)
    ref = (new_id or f"c{id_order(last)[1] + 1:04d}") if went_in else None
    number, base = len(lab.merges) + 1, lab.of(decision.base_id)
    merge = Merge(number, base.candidate_id, decision.parts, went_in, ref, decision.halving, decision.predicted)
    lab = replace(lab, merges=(*lab.merges, merge))
    if ref is None:
        return lab
    # Every part saves the lines it saved on its own base; 0, not counted, where the baseline's are not.
    parts = [lab.of(part) for part in went_in]
    saved = sum(lab.of(part.base_id or base.candidate_id).code_lines - part.code_lines for part in parts)
    origin, lines = Origin.UNION if len(parts) > 1 else Origin.PORT, base.code_lines and base.code_lines - saved
    new = CandidateStats(ref, f"merge-{number}", base.candidate_id, CandidateState.CONTENDER, (), 1, origin=origin)
    return with_candidate(lab, replace(new, code_lines=lines))


def started(lab: LabSnapshot, ref: str, since: float) -> LabSnapshot:
    """After one pending run of a candidate got a slot, at this many seconds."""
    return changed(lab, ref, running_since=tuple(sorted((*lab.of(ref).running_since, since))))


def requeued(lab: LabSnapshot, ref: str, since: float) -> LabSnapshot:
    """After a run that had begun then lost its slot and waits again."""
    return changed(lab, ref, running_since=_less(lab.of(ref).running_since, since))


def finished(
    lab: LabSnapshot,
    ref: str,
    score: float | None,
    failure: str = "crash: it fell over",
    *,
    occasion: Occasion | None = None,
    since: float | None = None,
) -> LabSnapshot:
    """After one pending run of a candidate ended, with a score or without; it had its slot `since` then."""
    was = lab.of(ref)
    ended = {"pending_runs": was.pending_runs - 1, "running_since": _less(was.running_since, since)}
    if score is None:
        return changed(lab, ref, failed_runs=was.failed_runs + 1, failure=failure, **ended)
    occasions = was.occasions if occasion is None else (*was.occasions, occasion)
    return changed(lab, ref, scores=(*was.scores, score), occasions=occasions, **ended)


def cancelled(lab: LabSnapshot, ref: str) -> LabSnapshot:
    """After one queued run of a candidate was taken back."""
    return changed(lab, ref, pending_runs=lab.of(ref).pending_runs - 1)


def with_candidate(lab: LabSnapshot, new: CandidateStats) -> LabSnapshot:
    return replace(lab, standings=(*lab.standings, new))


def without(lab: LabSnapshot, ref: str) -> LabSnapshot:
    """A settled candidate with one score at most left out of the snapshot, which changes no decision."""
    gone = lab.of(ref)
    counts = bool(gone.scores) and gone.base_id == lab.baseline_id
    kept = tuple(stats for stats in lab.standings if stats is not gone)
    firsts = lab.firsts_left_out
    if gone.scores and gone.occasions and gone.base_id and not gone.origin.merged:
        firsts = (*firsts[-2 * MOST_FIRSTS :], FirstScore(gone.scores[0], gone.base_id, gone.occasions[0]))
    return replace(lab, standings=kept, left_out=lab.left_out + counts, firsts_left_out=firsts)


def changed(lab: LabSnapshot, ref: str, **fields: object) -> LabSnapshot:
    standings = (replace(s, **fields) if s.candidate_id == ref else s for s in lab.standings)  # type: ignore[arg-type]
    return replace(lab, standings=tuple(standings))


def _less(times: tuple[float, ...], one: float | None) -> tuple[float, ...]:
    """Without one of the times; all of them when it is None."""
    if one is None:
        return times
    at = times.index(one)
    return (*times[:at], *times[at + 1 :])
