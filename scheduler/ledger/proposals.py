"""Asks to proposers on record, and what became of each: answered once, or lost with the scheduler that asked.

asked ──> queued (a new candidate) | known (an earlier one) | failed (no idea)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.domain.errors import LedgerProblem
from scheduler.domain.proposal import Proposal, ProposalState, Trouble
from scheduler.ledger.db import Database
from scheduler.ledger.events import Events
from scheduler.ledger.ids import candidate_id, number_of, proposal_id


class Proposals:
    def __init__(self, database: Database, events: Events, clock: Callable[[], float]) -> None:
        self._database, self._events, self._clock = database, events, clock

    def ask(self, tag: str, search: int, proposer: str, base_id: str, round: int, seed: int) -> str:
        """Write an ask down before it goes out. Returns its id."""
        with self._database.transaction():
            number = self._database.insert(
                "proposal",
                tag=tag,
                search=search,
                proposer=proposer,
                base=number_of(base_id, "c"),
                round=round,
                seed=seed,
                state=ProposalState.ASKED.value,
                asked_at=self._clock(),
            )
            self._events.write(tag, proposal_id(number), "", ProposalState.ASKED, proposer)
            return proposal_id(number)

    def queued(self, ref: str, candidate_id: str, title: str, *, log: str = "", remark: str = "") -> None:
        """It brought a new candidate: call it in the transaction that adds that. Raises LedgerProblem: answered."""
        self._answer(ref, ProposalState.QUEUED, candidate_id, title=title, reason=remark, log=log)

    def known(self, ref: str, candidate_id: str, title: str, *, log: str = "", remark: str = "") -> None:
        """It brought the program of an earlier candidate again. Raises LedgerProblem when it is answered already."""
        self._answer(ref, ProposalState.KNOWN, candidate_id, title=title, reason=remark, log=log)

    def failed(self, ref: str, trouble: Trouble, reason: str, title: str = "", log: str = "") -> None:
        """It brought no idea. Raises LedgerProblem when it is answered already."""
        self._answer(ref, ProposalState.FAILED, None, title=title, trouble=trouble.value, reason=reason, log=log)

    def lose_open(self, tag: str, reason: str) -> int:
        """Asks nobody will answer any more: their proposers are gone. Returns how many."""
        with self._database.transaction():
            rows = self._database.all("SELECT number FROM proposal WHERE tag = ? AND state = 'asked'", tag)
            for row in rows:
                self.failed(proposal_id(row["number"]), Trouble.STOPPED, reason)
            return len(rows)

    def list(self, tag: str) -> tuple[Proposal, ...]:
        """All of a lab, in the order of asking."""
        rows = self._database.all("SELECT * FROM proposal WHERE tag = ? ORDER BY number", tag)
        return tuple(map(_parse_proposal, rows))

    def _answer(self, ref: str, to: ProposalState, candidate: str | None, **columns: str) -> None:
        columns |= {"state": to.value}
        changes = ", ".join(f"{name} = ?" for name in columns)
        with self._database.transaction():
            moved = self._database.execute(
                f"UPDATE proposal SET {changes}, candidate = ?, answered_at = ? WHERE number = ? AND state = 'asked'",
                *(*columns.values(), candidate and number_of(candidate, "c"), self._clock(), number_of(ref, "p")),
            )
            if not moved.rowcount:
                raise LedgerProblem(f"{ref} is no open ask: it was answered already, or never went out")
            row = self._database.one("SELECT tag FROM proposal WHERE number = ?", number_of(ref, "p"))
            why = f"{columns['trouble']}: {columns['reason']}" if "trouble" in columns else candidate or ""
            self._events.write(row["tag"], ref, ProposalState.ASKED, to, why)


def _parse_proposal(row: Any) -> Proposal:
    return Proposal(
        id=proposal_id(row["number"]),
        search=row["search"],
        proposer=row["proposer"],
        base_id=candidate_id(row["base"]),
        round=row["round"],
        seed=row["seed"],
        state=ProposalState(row["state"]),
        candidate_id=None if row["candidate"] is None else candidate_id(row["candidate"]),
        title=row["title"],
        trouble=row["trouble"],
        reason=row["reason"],
        log=row["log"],
        asked_at=row["asked_at"],
        answered_at=row["answered_at"],
    )
