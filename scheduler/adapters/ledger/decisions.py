"""Decisions applied to the ledger, each in one transaction that names the state it leaves, and read back.

A decision is stored with the standings, the noise and the settings it was taken from, so that it can be judged again.
Deciding is the policies' business; moving the branch is git's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.adapters.ledger.board import read_board
from scheduler.adapters.ledger.candidates import Candidates
from scheduler.adapters.ledger.db import Database
from scheduler.adapters.ledger.decision_rows import decision_columns, parse_decision, parse_effect
from scheduler.adapters.ledger.ids import candidate_id, number_of
from scheduler.adapters.ledger.labs import Labs
from scheduler.adapters.ledger.runs import Runs
from scheduler.domain.candidate import CandidateState, Standing
from scheduler.domain.decision import (
    Decision,
    DecisionRecord,
    Discard,
    Effect,
    MeasureBaseline,
    Noise,
    Promote,
    Promotion,
    Replicate,
    Retry,
)
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.lab import Board
from scheduler.domain.run import Queued, RunKind


class Decisions:
    def __init__(
        self, database: Database, labs: Labs, candidates: Candidates, runs: Runs, clock: Callable[[], float]
    ) -> None:
        self._database, self._labs, self._clock = database, labs, clock
        self._candidates, self._runs = candidates, runs

    def apply(self, tag: str, decision: Decision, *, noise: Noise, sentence: str, commit: str | None = None) -> None:
        """Carry a decision out and write it down. `commit` is the promotion's, required for Promote.

        Raises LedgerProblem, with nothing written, when a candidate is not in the state the decision starts from or
        has other scores than the decision was taken from.
        """
        with self._database.transaction():
            board = read_board(self._database, self._labs.get(tag))
            candidate, base = _parties(board, decision)
            number = self._database.insert(
                "decision",
                tag=tag,
                decided_at=self._clock(),
                sentence=sentence,
                **decision_columns(decision, candidate, base, noise, board.gates),
            )
            self._carry_out(decision, candidate)
            if isinstance(decision, Promote):
                self._write_promotion(number, tag, decision, commit)

    def history(self, tag: str) -> tuple[DecisionRecord, ...]:
        """Every decision of a lab, oldest first."""
        return tuple(map(parse_decision, self._all("tag = ?", tag)))

    def of_candidate(self, ref: str) -> tuple[DecisionRecord, ...]:
        """Every decision on one candidate, oldest first."""
        return tuple(map(parse_decision, self._all("candidate = ?", number_of(ref, "c"))))

    def promotions(self, tag: str) -> tuple[Promotion, ...]:
        """Oldest first: the lineage of baselines after the first."""
        rows = self._database.all(
            "SELECT promotion.*, decision.effect, decision.sentence FROM promotion"
            " JOIN decision ON decision.number = promotion.decision WHERE promotion.tag = ? ORDER BY promotion.number",
            tag,
        )
        return tuple(
            Promotion(
                promoted_at=row["promoted_at"],
                candidate_id=candidate_id(row["candidate"]),
                base_id=candidate_id(row["base"]),
                commit=row["commit_id"],
                effect=parse_effect(row["effect"]),
                sentence=row["sentence"],
            )
            for row in rows
        )

    def _carry_out(self, decision: Decision, candidate: Standing) -> None:
        match decision:
            case Promote(base_id=base_id, reason=reason):
                self._leave(base_id, CandidateState.PROMOTED, reason, CandidateState.BASELINE)
                self._leave_undecided(candidate, CandidateState.BASELINE, reason)
            case Replicate(reason=reason):
                self._leave_undecided(candidate, CandidateState.CONTENDER, reason)
                self._runs.add(candidate.candidate_id, RunKind.REPEAT, reason)
            case Discard(effect=effect, reason=reason):
                to = CandidateState.DISCARDED if effect else CandidateState.FAILED
                self._leave_undecided(candidate, to, reason)
                self._cancel_queued(candidate.candidate_id, reason)
            case MeasureBaseline(reason=reason):
                _require(candidate, CandidateState.BASELINE)
                self._runs.add(candidate.candidate_id, RunKind.BASELINE, reason)
            case Retry(reason=reason):
                _require(candidate, CandidateState.CONTENDER)
                self._runs.add(candidate.candidate_id, RunKind.REPEAT, reason)

    def _leave_undecided(self, candidate: Standing, to: CandidateState, reason: str) -> None:
        _require(candidate, CandidateState.OPEN, CandidateState.CONTENDER)
        if candidate.state is not to:
            self._leave(candidate.candidate_id, to, reason, candidate.state)

    def _leave(self, ref: str, to: CandidateState, reason: str, from_: CandidateState) -> None:
        if not self._candidates.set_state(ref, from_, to, reason):
            raise LedgerProblem(f"{ref} is not {from_} any more", "another decision was first; nothing was changed")

    def _cancel_queued(self, ref: str, reason: str) -> None:
        for run in self._runs.of_candidate(ref):
            if isinstance(run.state, Queued):
                self._runs.cancel(run.id, f"decided without it: {reason}")

    def _write_promotion(self, number: int, tag: str, decision: Promote, commit: str | None) -> None:
        if not commit:
            raise ValueError("a promotion needs its commit")
        self._database.insert(
            "promotion",
            decision=number,
            tag=tag,
            candidate=number_of(decision.candidate_id, "c"),
            base=number_of(decision.base_id, "c"),
            commit_id=commit,
            promoted_at=self._clock(),
        )

    def _all(self, condition: str, value: object) -> Any:
        return self._database.all(f"SELECT * FROM decision WHERE {condition} ORDER BY number", value)


def _parties(board: Board, decision: Decision) -> tuple[Standing, Standing]:
    """The candidate decided on and the baseline it was held against, as they stand now."""
    candidate_ref = decision.base_id if isinstance(decision, MeasureBaseline) else decision.candidate_id
    base_ref = board.baseline_id if isinstance(decision, Retry) else decision.base_id
    try:
        candidate, base = board.of(candidate_ref), board.of(base_ref)
    except KeyError as missing:
        raise LedgerProblem(f"cannot decide: no candidate {missing} in this lab") from None
    effect = None if isinstance(decision, MeasureBaseline | Retry) else decision.effect
    if effect is not None:
        _check_scores(effect, candidate, base)
    return candidate, base


def _check_scores(effect: Effect, candidate: Standing, base: Standing) -> None:
    if (effect.n_candidate, effect.n_base) != (candidate.n, base.n):
        message = f"{candidate.candidate_id} has {candidate.n} scores and {base.candidate_id} {base.n}, not"
        raise LedgerProblem(f"{message} {effect.n_candidate} and {effect.n_base}", "decide again on the board as it is")


def _require(standing: Standing, *states: CandidateState) -> None:
    if standing.state not in states:
        wanted = " or ".join(states)
        raise LedgerProblem(
            f"{standing.candidate_id} is {standing.state}, not {wanted}", "another decision was first; nothing changed"
        )
