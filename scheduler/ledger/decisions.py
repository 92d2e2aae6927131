"""Decisions applied to the ledger, each in one transaction that names the state it leaves, and read back.

A decision is stored with the standings, the noise and the settings it was taken from, and with the last result there
was, so that it can be judged again. Deciding is the policies' business; moving the branch and merging are git's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.domain.decision import Combine, Decision, DecisionRecord, Noise, Promotion
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.lab import Board
from scheduler.domain.merge import Assembled
from scheduler.ledger.board import Boards
from scheduler.ledger.candidates import Candidates
from scheduler.ledger.carrying import Carrier, Outcome
from scheduler.ledger.db import Database
from scheduler.ledger.decision_rows import DECISIONS, decision_columns, parse_decision, parse_effect
from scheduler.ledger.ids import candidate_id, number_of
from scheduler.ledger.labs import Labs
from scheduler.ledger.parties import find_parties
from scheduler.ledger.runs import Runs


class Decisions:
    def __init__(
        self,
        database: Database,
        boards: Boards,
        labs: Labs,
        candidates: Candidates,
        runs: Runs,
        clock: Callable[[], float],
    ) -> None:
        self._database, self._boards, self._labs, self._runs, self._clock = database, boards, labs, runs, clock
        self._carrier = Carrier(database, candidates, runs, clock)

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
            board = self._boards.read(self._labs.get(tag))
            _check_merges(board, decision, merges_seen)
            parties = find_parties(board, decision)
            number = self._database.insert(
                "decision",
                tag=tag,
                decided_at=self._clock(),
                sentence=sentence,
                result_mark=self._runs.last_result() if result_mark is None else result_mark,
                **decision_columns(decision, parties, noise, board.gates),
            )
            made = Outcome(commit, assembled, problem)
            self._carrier.carry_out(tag, number, decision, parties.candidate, board, made)

    def history(self, tag: str) -> tuple[DecisionRecord, ...]:
        """Every decision of a lab, oldest first."""
        return self._parsed("decision.tag = ?", tag)

    def of_candidate(self, ref: str) -> tuple[DecisionRecord, ...]:
        """Every decision on one candidate, oldest first; merges it was a part of are among them."""
        number = number_of(ref, "c")
        quoted = f'"{candidate_id(number)}"' if number else ""
        return self._parsed("decision.candidate = ? OR instr(merge.parts, ?)", number, quoted)

    def promotions(self, tag: str) -> tuple[Promotion, ...]:
        """Oldest first: the lineage of baselines after the first."""
        rows = self._database.all(
            "SELECT promotion.*, decision.effect, decision.sentence FROM promotion"
            " JOIN decision ON decision.number = promotion.decision WHERE promotion.tag = ? ORDER BY promotion.number",
            tag,
        )
        return tuple(map(_parse_promotion, rows))

    def _parsed(self, condition: str, *values: object) -> tuple[DecisionRecord, ...]:
        rows = self._database.all(f"{DECISIONS} WHERE {condition} ORDER BY decision.number", *values)
        return tuple(map(parse_decision, rows))


def _check_merges(board: Board, decision: Decision, seen: int | None) -> None:
    if isinstance(decision, Combine) and seen is not None and seen != len(board.merges):
        raise LedgerProblem("there was another merge since", "decide again on the board as it is")


def _parse_promotion(row: Any) -> Promotion:
    return Promotion(
        promoted_at=row["promoted_at"],
        candidate_id=candidate_id(row["candidate"]),
        base_id=candidate_id(row["base"]),
        commit=row["commit_id"],
        effect=parse_effect(row["effect"]),
        sentence=row["sentence"],
    )
