"""Decisions applied to the ledger, each in one transaction that names the states it leaves, and read back.

A decision is stored with the standings, the noise and the settings it was taken from, and with the last result there
was, so that it can be judged again. Deciding is the policies' business; moving the branch and merging are git's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scheduler.domain.candidate import Candidate, CandidateState, CandidateStats, NewCandidate, Origin, Source
from scheduler.domain.decision import (
    KINDS,
    Assembled,
    Combine,
    Decision,
    DecisionRecord,
    Discard,
    Effect,
    GateSettings,
    MeasureBaseline,
    Noise,
    Promote,
    Promotion,
    Replicate,
    Retry,
    Shelve,
)
from scheduler.domain.errors import CandidateRejected, LedgerProblem
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Queued, RunKind
from scheduler.domain.text import signed
from scheduler.ledger.candidates import Candidates
from scheduler.ledger.db import Database
from scheduler.ledger.rows import candidate_id, decode, encode, from_row, number_of
from scheduler.ledger.runs import Runs

AUTHOR = "arsched"  # of the programs the scheduler merges
_TYPES: dict[str, type] = {kind: type_ for type_, kind in KINDS.items()}
_AGAIN = "decide again on the board as it is"
_LATE = "another was first; nothing was changed"


@dataclass(frozen=True, slots=True)
class TakenFrom:
    """What a decision was taken from. `candidate` is the first part of a merge, `base` the baseline of that time.

    `own_base` is the older baseline the candidate was made from; None where it is the same, or has no score.
    """

    candidate: CandidateStats
    base: CandidateStats
    own_base: CandidateStats | None
    noise: Noise
    gates: GateSettings


class Decisions:
    def __init__(
        self,
        database: Database,
        board: Callable[[str], LabSnapshot],
        candidates: Candidates,
        runs: Runs,
        clock: Callable[[], float],
    ) -> None:
        self._database, self._board, self._clock = database, board, clock
        self._candidates, self._runs = candidates, runs

    def apply(
        self,
        tag: str,
        decision: Decision,
        *,
        noise: Noise,
        sentence: str,
        commit: str | None = None,
        assembled: Assembled | None = None,
        problem: str = "",
        result_mark: int | None = None,
        merges_seen: int | None = None,
    ) -> None:
        """Carry a decision out and write it down.

        `commit` is the promotion's, required for Promote; Combine takes what was `assembled`, or the `problem` why
        nothing was. `result_mark` is `runs.last_result()` and `merges_seen` the number of merges when the decision was
        taken (None: as they are now). Raises LedgerProblem, with nothing written, when a candidate is not in the state
        the decision starts from or has other scores than it was taken from, or when there was a merge since.
        """
        with self._database.transaction():
            board = self._board(tag)
            if isinstance(decision, Combine) and merges_seen not in (None, len(board.merges)):
                raise LedgerProblem("there was another merge since", _AGAIN)
            taken_from = _taken_from(board, decision, noise)
            effect: Effect | None = getattr(decision, "effect", None)  # some have none
            candidate, base_id = taken_from.candidate, _base_of(board, decision)
            mark = self._runs.last_result() if result_mark is None else result_mark
            about = {"candidate": number_of(candidate.candidate_id, "c"), "base": number_of(base_id, "c")}
            what = {"kind": KINDS[type(decision)], "reason": decision.reason, "sentence": sentence}
            when = {"decided_at": self._clock(), "result_mark": mark, "p_better": effect and effect.p_better}
            whole = {"decision": encode(decision), "taken_from": encode(taken_from)}
            number = self._database.insert("decision", tag=tag, **about, **what, **when, **whole)
            match decision:
                case Promote():
                    self._promote(tag, number, decision, candidate, commit)
                case Replicate(reason=reason):
                    self._leave_undecided(candidate, CandidateState.CONTENDER, reason)
                    # As the baseline, where seeds move scores; elsewhere another seed says as much as any.
                    within = board.gates.max_runs if board.noise_prior_seed_bpb else 0
                    self._runs.add(candidate.candidate_id, RunKind.REPEAT, reason, within=within)
                case Discard(reason=reason):
                    self._drop(candidate, CandidateState.DISCARDED if effect else CandidateState.FAILED, reason)
                case Shelve(reason=reason):
                    self._drop(candidate, CandidateState.SHELVED, reason)
                case MeasureBaseline(reason=reason):
                    _require(candidate, CandidateState.BASELINE)
                    # With seeds that candidates have: a run with another says little of what is held against it.
                    self._runs.add(candidate.candidate_id, RunKind.BASELINE, reason, within=board.gates.max_runs)
                case Retry(reason=reason):
                    _require(candidate, CandidateState.CONTENDER)
                    self._runs.add(candidate.candidate_id, RunKind.REPEAT, reason)
                case Combine():
                    self._combine(tag, number, decision, board, assembled, problem)

    def restore_promotion(self, tag: str, decision: Promote, *, noise: Noise, sentence: str, commit: str) -> None:
        """Put a promotion on record that only git knows of: its scores are lost, its effect is what was said then.

        The candidate is in any other state than that of a baseline. Raises LedgerProblem when the base is not in it.
        """
        with self._database.transaction():
            board = self._board(tag)
            candidate, base = board.of(decision.candidate_id), board.of(decision.base_id)
            about = {"candidate": number_of(decision.candidate_id, "c"), "base": number_of(decision.base_id, "c")}
            what = {"kind": KINDS[Promote], "reason": decision.reason, "sentence": sentence}
            when = {"decided_at": self._clock(), "result_mark": 0, "p_better": decision.effect.p_better}
            taken_from = encode(TakenFrom(candidate, base, None, noise, board.gates))
            whole = {"decision": encode(decision), "taken_from": taken_from}
            number = self._database.insert("decision", tag=tag, **about, **what, **when, **whole)
            self._leave(base.candidate_id, CandidateState.BASELINE, CandidateState.PROMOTED, decision.reason)
            self._leave(candidate.candidate_id, candidate.state, CandidateState.BASELINE, decision.reason)
            for ref in (base.candidate_id, candidate.candidate_id):
                self._cancel_queued(ref, decision.reason)
            self._database.insert(
                "promotion", decision=number, tag=tag, **about, commit_id=commit, promoted_at=self._clock()
            )

    def history(self, tag: str) -> tuple[DecisionRecord, ...]:
        """Every decision of a lab, oldest first."""
        return self._records("tag = ?", tag)

    def of_candidate(self, ref: str) -> tuple[DecisionRecord, ...]:
        """Every decision on one candidate, oldest first; merges it was a part of are among them."""
        number = number_of(ref, "c")
        quoted = json.dumps(candidate_id(number)) if number else ""
        merges = "SELECT decision FROM merge WHERE instr(parts, ?)"
        return self._records(f"candidate = ? OR number IN ({merges})", number, quoted)

    def promotions(self, tag: str) -> tuple[Promotion, ...]:
        """Oldest first: the lineage of baselines after the first."""
        sql = (
            "SELECT promotion.*, decision.decision AS text, decision.sentence FROM promotion"
            " JOIN decision ON decision.number = promotion.decision WHERE promotion.tag = ? ORDER BY promotion.number"
        )
        return tuple(map(_parse_promotion, self._database.all(sql, tag)))

    def sentences(self, tag: str, last: int) -> tuple[str, ...]:
        """Of the last decisions of a lab, oldest first; without the figures they were taken from."""
        sql = "SELECT sentence FROM decision WHERE tag = ? ORDER BY number DESC LIMIT ?"
        return tuple(row["sentence"] for row in reversed(self._database.all(sql, tag, last)))

    def _records(self, condition: str, *values: object) -> tuple[DecisionRecord, ...]:
        rows = self._database.all(f"SELECT * FROM decision WHERE {condition} ORDER BY number", *values)
        return tuple(map(_parse_record, rows))

    def _promote(self, tag: str, number: int, decision: Promote, candidate: CandidateStats, commit: str | None) -> None:
        if not commit:
            raise ValueError("a promotion needs its commit")
        self._leave(decision.base_id, CandidateState.BASELINE, CandidateState.PROMOTED, decision.reason)
        self._leave_undecided(candidate, CandidateState.BASELINE, decision.reason)
        self._cancel_queued(decision.base_id, f"{candidate.candidate_id} took its place", RunKind.BASELINE)
        moved = {"candidate": number_of(decision.candidate_id, "c"), "base": number_of(decision.base_id, "c")}
        where = {"commit_id": commit, "promoted_at": self._clock()}
        self._database.insert("promotion", decision=number, tag=tag, **moved, **where)

    def _combine(
        self, tag: str, number: int, decision: Combine, board: LabSnapshot, made: Assembled | None, problem: str
    ) -> None:
        if (made is None) != bool(problem):
            raise ValueError("a merge needs what was assembled, or else the problem")
        parts = [board.of(part) for part in decision.parts]
        for part in parts:
            if part.state.undecided:
                self._drop(part, CandidateState.SHELVED, decision.reason)
        new = number_of(self._add_merged(tag, decision, parts, made).id, "c") if made else None
        what = {"base": number_of(decision.base_id, "c"), "parts": encode(decision.parts), "halving": decision.halving}
        became = {"candidate": new, "merged": encode(made.merged if made else ()), "problem": problem}
        self._database.insert("merge", decision=number, tag=tag, predicted=decision.predicted, **what, **became)

    def _add_merged(self, tag: str, decision: Combine, parts: list[CandidateStats], made: Assembled) -> Candidate:
        known = self._candidates.find_fingerprint(tag, made.fingerprint)
        if known is not None:
            raise LedgerProblem(f"the merged program is {known.id} by now", _LATE)
        names = " + ".join(part.name for part in parts)
        source = Source(made.train_py, made.train_sha256, made.fingerprint, made.code_lines)
        new = NewCandidate(
            *(source, made.name, made.commit, decision.base_id, made.title, AUTHOR, RunKind.UNION),
            state=CandidateState.CONTENDER,
            origin=Origin.UNION if len(made.merged) > 1 else Origin.PORT,
            hypothesis=f"{names}: effects add up to {signed(decision.predicted)} bpb",
        )
        try:
            return self._candidates.add(tag, new)
        except CandidateRejected as problem:
            raise LedgerProblem(problem.message, _LATE) from None

    def _drop(self, candidate: CandidateStats, to: CandidateState, reason: str) -> None:
        """Its queued runs have no use any more; what already runs is recorded and never judged."""
        self._leave_undecided(candidate, to, reason)
        self._cancel_queued(candidate.candidate_id, f"decided without it: {reason}")

    def _leave_undecided(self, candidate: CandidateStats, to: CandidateState, reason: str) -> None:
        _require(candidate, CandidateState.OPEN, CandidateState.CONTENDER)
        if candidate.state is not to:
            self._leave(candidate.candidate_id, candidate.state, to, reason)

    def _leave(self, ref: str, from_: CandidateState, to: CandidateState, reason: str) -> None:
        if not self._candidates.set_state(ref, from_, to, reason):
            raise LedgerProblem(f"{ref} is not {from_} any more", "another decision was first; nothing was changed")

    def _cancel_queued(self, ref: str, reason: str, *kinds: RunKind) -> None:
        """Queued runs of these kinds; without kinds, all."""
        for run in self._runs.of_candidate(ref):
            if isinstance(run.state, Queued) and (not kinds or run.kind in kinds):
                self._runs.cancel(run.id, reason)


def _taken_from(board: LabSnapshot, decision: Decision, noise: Noise) -> TakenFrom:
    """Raises LedgerProblem for a candidate that is not there, for a baseline of the past and for scores of the past."""
    match decision:
        case MeasureBaseline(base_id=ref):
            about: tuple[str, ...] = (ref,)
        case Combine(parts=about):
            if not about:
                raise ValueError("a merge needs a part")
        case _:
            about = (decision.candidate_id,)
    base_id = _base_of(board, decision)
    for ref in (*about, base_id):
        try:
            board.of(ref)
        except KeyError:
            raise LedgerProblem(f"cannot decide: no candidate {ref!r} in this lab") from None
    candidate, baseline = board.of(about[0]), board.baseline
    own_base = None
    if candidate.base_id is not None and baseline.candidate_id not in (candidate.base_id, candidate.candidate_id):
        own_base = board.of(candidate.base_id) if board.of(candidate.base_id).scores else None
    # A merge goes onto today's baseline; an effect may be against the candidate's own as well.
    is_own = own_base is not None and base_id == own_base.candidate_id and not isinstance(decision, Combine)
    if base_id != baseline.candidate_id and not is_own:
        raise LedgerProblem(f"{base_id} is not the baseline, {baseline.candidate_id} is", _AGAIN)
    effect, base = getattr(decision, "effect", None), board.of(base_id)
    if effect is not None and (effect.n_candidate, effect.n_base) != (candidate.n, base.n):
        message = f"{candidate.candidate_id} has {candidate.n} scores and {base.candidate_id} {base.n}, not"
        raise LedgerProblem(f"{message} {effect.n_candidate} and {effect.n_base}", _AGAIN)
    return TakenFrom(candidate, baseline, own_base, noise, board.gates)


def _base_of(board: LabSnapshot, decision: Decision) -> str:
    """What a decision's effect is against."""
    return board.baseline_id if isinstance(decision, Retry) else decision.base_id


def _require(standing: CandidateStats, *states: CandidateState) -> None:
    if standing.state not in states:
        what = f"{standing.candidate_id} is {standing.state}, not {' or '.join(states)}"
        raise LedgerProblem(what, "another decision was first; nothing changed")


def _parse_record(row: Any) -> DecisionRecord:
    what = f"decision {row['number']}"
    taken = decode(row["taken_from"], TakenFrom, what)
    decision: Any = decode(row["decision"], _TYPES[row["kind"]], what)
    return DecisionRecord(
        *(row["decided_at"], decision, taken.candidate, taken.base, taken.noise, taken.gates, row["sentence"]),
        *(taken.own_base, row["result_mark"]),
    )


def _parse_promotion(row: Any) -> Promotion:
    effect = decode(row["text"], Promote, f"decision {row['decision']}").effect
    ids = {"candidate_id": candidate_id(row["candidate"]), "base_id": candidate_id(row["base"])}
    return from_row(Promotion, row, commit=row["commit_id"], effect=effect, **ids)
