"""Boards made by hand, and a small interpreter that applies decisions to them as the ledger would. Shared by tests."""

from __future__ import annotations

from dataclasses import replace

from scheduler.domain.candidate import CandidateState, Origin, Standing
from scheduler.domain.decision import (
    PRESETS,
    Combine,
    Decision,
    Discard,
    GateSettings,
    MeasureBaseline,
    Promote,
    Replicate,
    Retry,
    Shelve,
)
from scheduler.domain.lab import Board
from scheduler.domain.merge import Merge
from scheduler.domain.run import Queued, Run, RunKind

SIGMA0 = 0.0005
BASE = "c0001"


def standing(number: int, *scores: float, state: CandidateState = CandidateState.OPEN, **more: object) -> Standing:
    return Standing(f"c{number:04d}", f"idea-{number}", BASE, state, tuple(scores), **more)  # type: ignore[arg-type]


def baseline(*scores: float, **more: object) -> Standing:
    return standing(1, *scores, state=CandidateState.BASELINE, **more)


def board(base: Standing, *candidates: Standing, first: bool = True, gates: GateSettings = PRESETS["default"]) -> Board:
    return Board(base.candidate_id, first, (base, *candidates), SIGMA0, gates)


def run(number: int, kind: RunKind = RunKind.NEW, candidate: str = "c0002") -> Run:
    return Run(f"r{number:04d}", candidate, kind, number, 0, "", Queued(float(number)))


def applied(now: Board, decision: Decision) -> Board:
    """The board after a decision, written from the rule and not from the ledger."""
    match decision:
        case Promote(candidate_id=winner, base_id=loser):
            after = _changed(now, loser, state=CandidateState.PROMOTED)
            return replace(
                _changed(after, winner, state=CandidateState.BASELINE), baseline_id=winner, first_baseline=False
            )
        case Replicate(candidate_id=ref):
            return _changed(now, ref, state=CandidateState.CONTENDER, pending_runs=now.of(ref).pending_runs + 1)
        case Discard(candidate_id=ref, effect=effect):
            return _changed(now, ref, state=CandidateState.DISCARDED if effect else CandidateState.FAILED)
        case Shelve(candidate_id=ref):
            return _changed(now, ref, state=CandidateState.SHELVED)
        case Combine():
            return merged(now, decision)
        case MeasureBaseline(base_id=ref) | Retry(candidate_id=ref):
            return _changed(now, ref, pending_runs=now.of(ref).pending_runs + 1)


def merged(now: Board, decision: Combine, went_in: tuple[str, ...] | None = None) -> Board:
    """The board after a merge: the undecided parts are shelved, and what went in is a contender with one run queued."""
    parts = decision.parts if went_in is None else went_in
    number = len(now.merges) + 1
    new_id = f"c{max(int(s.candidate_id[1:]) for s in now.standings) + 1:04d}" if parts else None
    for part in decision.parts:
        if now.of(part).state.undecided:
            now = _changed(now, part, state=CandidateState.SHELVED)
    merge = Merge(number, decision.base_id, decision.parts, parts, new_id, decision.halving, decision.predicted)
    now = replace(now, merges=(*now.merges, merge))
    if new_id is None:
        return now
    origin = Origin.UNION if len(parts) > 1 else Origin.PORT
    new = Standing(new_id, f"merge-{number}", decision.base_id, CandidateState.CONTENDER, (), 1, origin=origin)
    return with_candidate(now, replace(new, code_lines=_merged_lines(now, decision.base_id, parts)))


def _merged_lines(now: Board, base_id: str, parts: tuple[str, ...]) -> int:
    """Every part saves what it saved on its own base; 0, not counted, where the baseline's are not."""
    saved = sum(now.of(now.of(part).base_id or BASE).code_lines - now.of(part).code_lines for part in parts)
    return now.of(base_id).code_lines and now.of(base_id).code_lines - saved


def finished(now: Board, ref: str, score: float | None, failure: str = "crash: it fell over") -> Board:
    """The board after one pending run of a candidate ended, with a score or without."""
    was = now.of(ref)
    pending = was.pending_runs - 1
    if score is None:
        return _changed(now, ref, pending_runs=pending, failed_runs=was.failed_runs + 1, failure=failure)
    return _changed(now, ref, pending_runs=pending, scores=(*was.scores, score))


def cancelled(now: Board, ref: str) -> Board:
    """The board after one queued run of a candidate was taken back."""
    return _changed(now, ref, pending_runs=now.of(ref).pending_runs - 1)


def with_candidate(now: Board, new: Standing) -> Board:
    return replace(now, standings=(*now.standings, new))


def _changed(now: Board, ref: str, **fields: object) -> Board:
    changed = (replace(s, **fields) if s.candidate_id == ref else s for s in now.standings)  # type: ignore[arg-type]
    return replace(now, standings=tuple(changed))
