"""Who a decision is about, as they stand now; and whether it was taken from what they stand at."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.candidate import Standing
from scheduler.domain.decision import Combine, Decision, Effect, MeasureBaseline, Retry
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.lab import Board

_AGAIN = "decide again on the board as it is"


@dataclass(frozen=True, slots=True)
class Parties:
    """`candidate` is the first part of a merge; `own_base` is None where it is the `baseline`, or has no score.

    `base_id` is what the decision's effect is against: one of the two.
    """

    candidate: Standing
    baseline: Standing
    own_base: Standing | None
    base_id: str


def find_parties(board: Board, decision: Decision) -> Parties:
    """Raises LedgerProblem for one that is not there, for a baseline of the past and for scores of the past."""
    for ref in (*_about(decision), _base_of(decision, board)):
        _find(board, ref)
    candidate = board.of(_about(decision)[0])
    parties = Parties(candidate, board.baseline, _own_base(board, candidate), _base_of(decision, board))
    _check_base(parties, decision)
    effect = effect_in(decision)
    if effect is not None:
        _check_scores(effect, candidate, board.of(parties.base_id))
    return parties


def effect_in(decision: Decision) -> Effect | None:
    """The effect a decision was taken from, where it has one."""
    return None if isinstance(decision, MeasureBaseline | Retry | Combine) else decision.effect


def _about(decision: Decision) -> tuple[str, ...]:
    match decision:
        case MeasureBaseline(base_id=ref):
            return (ref,)
        case Combine(parts=parts):
            if not parts:
                raise ValueError("a merge needs a part")
            return parts
        case _:
            return (decision.candidate_id,)


def _base_of(decision: Decision, board: Board) -> str:
    return board.baseline_id if isinstance(decision, Retry) else decision.base_id


def _own_base(board: Board, candidate: Standing) -> Standing | None:
    """The baseline it was made from, where that is another than today's, has a score, and it is not today's itself."""
    if candidate.base_id is None or board.baseline_id in (candidate.base_id, candidate.candidate_id):
        return None
    base = board.of(candidate.base_id)
    return base if base.scores else None


def _find(board: Board, ref: str) -> Standing:
    try:
        return board.of(ref)
    except KeyError:
        raise LedgerProblem(f"cannot decide: no candidate {ref!r} in this lab") from None


def _check_base(parties: Parties, decision: Decision) -> None:
    """A merge goes onto today's baseline; an effect may be against the candidate's own as well."""
    allowed = [parties.baseline.candidate_id]
    if parties.own_base is not None and not isinstance(decision, Combine):
        allowed.append(parties.own_base.candidate_id)
    if parties.base_id not in allowed:
        raise LedgerProblem(f"{parties.base_id} is not the baseline, {allowed[0]} is", _AGAIN)


def _check_scores(effect: Effect, candidate: Standing, base: Standing) -> None:
    if (effect.n_candidate, effect.n_base) != (candidate.n, base.n):
        message = f"{candidate.candidate_id} has {candidate.n} scores and {base.candidate_id} {base.n}, not"
        raise LedgerProblem(f"{message} {effect.n_candidate} and {effect.n_base}", _AGAIN)
