"""What each decision changes: states, queued runs, the promotion and the merge. Inside the transaction of `Decisions`.

Every step names the state it leaves; one that finds another raises LedgerProblem, and the transaction writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.domain.candidate import Candidate, CandidateState, Origin, Standing
from scheduler.domain.decision import (
    Combine,
    Decision,
    Discard,
    MeasureBaseline,
    Promote,
    Replicate,
    Retry,
    Shelve,
)
from scheduler.domain.errors import CandidateRejected, LedgerProblem
from scheduler.domain.lab import Board
from scheduler.domain.merge import Assembled
from scheduler.domain.run import Queued, RunKind
from scheduler.ledger.candidates import Candidates
from scheduler.ledger.db import Database
from scheduler.ledger.ids import number_of
from scheduler.ledger.runs import Runs

AUTHOR = "arsched"  # of the programs the scheduler merges


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was made of a decision outside the ledger: a promotion's commit, or a merge's program or why it has none."""

    commit: str | None = None
    assembled: Assembled | None = None
    problem: str = ""


class Carrier:
    def __init__(self, database: Database, candidates: Candidates, runs: Runs, clock: Callable[[], float]) -> None:
        self._database, self._candidates, self._runs, self._clock = database, candidates, runs, clock

    def carry_out(
        self, tag: str, number: int, decision: Decision, candidate: Standing, board: Board, made: Outcome
    ) -> None:
        """`number` is the decision's row, `candidate` the one decided on. Raises LedgerProblem, ValueError."""
        match decision:
            case Promote():
                self._promote(tag, number, decision, candidate, made)
            case Replicate(reason=reason):
                self._leave_undecided(candidate, CandidateState.CONTENDER, reason)
                self._runs.add(candidate.candidate_id, RunKind.REPEAT, reason)
            case Discard(effect=effect, reason=reason):
                self._drop(candidate, CandidateState.DISCARDED if effect else CandidateState.FAILED, reason)
            case Shelve(reason=reason):
                self._drop(candidate, CandidateState.SHELVED, reason)
            case MeasureBaseline(reason=reason):
                _require(candidate, CandidateState.BASELINE)
                self._runs.add(candidate.candidate_id, RunKind.BASELINE, reason)
            case Retry(reason=reason):
                _require(candidate, CandidateState.CONTENDER)
                self._runs.add(candidate.candidate_id, RunKind.REPEAT, reason)
            case Combine():
                self._combine(tag, number, decision, board, made)

    def _promote(self, tag: str, number: int, decision: Promote, candidate: Standing, made: Outcome) -> None:
        if not made.commit:
            raise ValueError("a promotion needs its commit")
        self._leave(decision.base_id, CandidateState.PROMOTED, decision.reason, CandidateState.BASELINE)
        self._leave_undecided(candidate, CandidateState.BASELINE, decision.reason)
        self._cancel_queued(decision.base_id, f"{candidate.candidate_id} took its place", RunKind.BASELINE)
        self._database.insert(
            "promotion",
            decision=number,
            tag=tag,
            candidate=number_of(decision.candidate_id, "c"),
            base=number_of(decision.base_id, "c"),
            commit_id=made.commit,
            promoted_at=self._clock(),
        )

    def _combine(self, tag: str, number: int, decision: Combine, board: Board, made: Outcome) -> None:
        if (made.assembled is None) != bool(made.problem):
            raise ValueError("a merge needs what was assembled, or else the problem")
        parts = [board.of(part) for part in decision.parts]
        for part in parts:
            if part.state.undecided:
                self._drop(part, CandidateState.SHELVED, decision.reason)
        new = self._add_merged(tag, decision, parts, made.assembled) if made.assembled else None
        self._database.insert(
            "merge",
            decision=number,
            tag=tag,
            base=number_of(decision.base_id, "c"),
            parts=json.dumps(decision.parts),
            merged=json.dumps(made.assembled.merged if made.assembled else ()),
            candidate=number_of(new.id, "c") if new else None,
            halving=decision.halving,
            predicted=decision.predicted,
            problem=made.problem,
        )

    def _add_merged(self, tag: str, decision: Combine, parts: list[Standing], made: Assembled) -> Candidate:
        known = self._candidates.find_fingerprint(tag, made.fingerprint)
        if known is not None:
            raise LedgerProblem(f"the merged program is {known.id} by now", "another was first; nothing was changed")
        try:
            return self._candidates.add(
                tag,
                name=made.name,
                commit=made.commit,
                base_id=decision.base_id,
                train_py=made.train_py,
                train_sha256=made.train_sha256,
                fingerprint=made.fingerprint,
                title=made.title,
                author=AUTHOR,
                kind=RunKind.UNION,
                state=CandidateState.CONTENDER,
                origin=Origin.UNION if len(made.merged) > 1 else Origin.PORT,
                hypothesis=_hypothesis(decision, parts),
                code_lines=made.code_lines,
            )
        except CandidateRejected as problem:
            raise LedgerProblem(problem.message, "another was first; nothing was changed") from None

    def _drop(self, candidate: Standing, to: CandidateState, reason: str) -> None:
        """Its queued runs serve nobody any more; what already runs is recorded and never judged."""
        self._leave_undecided(candidate, to, reason)
        self._cancel_queued(candidate.candidate_id, f"decided without it: {reason}")

    def _leave_undecided(self, candidate: Standing, to: CandidateState, reason: str) -> None:
        _require(candidate, CandidateState.OPEN, CandidateState.CONTENDER)
        if candidate.state is not to:
            self._leave(candidate.candidate_id, to, reason, candidate.state)

    def _leave(self, ref: str, to: CandidateState, reason: str, from_: CandidateState) -> None:
        if not self._candidates.set_state(ref, from_, to, reason):
            raise LedgerProblem(f"{ref} is not {from_} any more", "another decision was first; nothing was changed")

    def _cancel_queued(self, ref: str, reason: str, *kinds: RunKind) -> None:
        """Queued runs of these kinds; without kinds, all."""
        for run in self._runs.of_candidate(ref):
            if isinstance(run.state, Queued) and (not kinds or run.kind in kinds):
                self._runs.cancel(run.id, reason)


def _hypothesis(decision: Combine, parts: list[Standing]) -> str:
    names = " + ".join(part.name for part in parts)
    return f"{names}: effects add up to {f'{decision.predicted:+.4f}'.replace('-', '−')} bpb"


def _require(standing: Standing, *states: CandidateState) -> None:
    if standing.state not in states:
        wanted = " or ".join(states)
        raise LedgerProblem(
            f"{standing.candidate_id} is {standing.state}, not {wanted}", "another decision was first; nothing changed"
        )
