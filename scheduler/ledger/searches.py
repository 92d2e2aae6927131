"""Searches in the ledger, with their proposals and their claims."""

from __future__ import annotations

from typing import Any

from scheduler.domain.decision import Claim
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.search import Proposal, ProposalFailure, ProposalState, Search, SearchSettings, SearchState
from scheduler.ledger.rows import Table, candidate_id, decode, encode, from_row, number_of, proposal_id, search_id


class Searches(Table):
    """Searches: at most one per lab that has not ended, with its settings and the time it was run.

    running ──> claiming ──> ended
    """

    def start(self, tag: str, settings: SearchSettings) -> Search:
        """Raises LedgerProblem when the lab has one that has not ended."""
        with self._database.transaction():
            earlier = self.current(tag)
            if earlier is not None:
                message = f"lab {tag!r} has the search {search_id(earlier.number)}, which is {earlier.state}"
                raise LedgerProblem(message, "go on with it, or end it first")
            number = self._database.insert(
                "search", tag=tag, settings=encode(settings), started_at=self._clock(), state=SearchState.RUNNING.value
            )
            self._events.write(tag, search_id(number), "", SearchState.RUNNING, "started")
            return self.get(number)

    def get(self, number: int) -> Search:
        """Raises LedgerProblem for an unknown one."""
        row = self._database.one("SELECT * FROM search WHERE number = ?", number)
        if row is None:
            raise LedgerProblem(f"no search {search_id(number)} in the ledger")
        return _parse_search(row)

    def current(self, tag: str) -> Search | None:
        """The one that has not ended."""
        row = self._database.one("SELECT * FROM search WHERE tag = ? AND state != 'ended'", tag)
        return _parse_search(row) if row else None

    def list(self, tag: str) -> tuple[Search, ...]:
        """Oldest first."""
        return tuple(map(_parse_search, self._database.all("SELECT * FROM search WHERE tag = ? ORDER BY number", tag)))

    def tick(self, number: int, seconds: float) -> None:
        """Add time in which it was run. Too frequent for the history."""
        with self._database.transaction():
            self._database.execute("UPDATE search SET active_s = active_s + ? WHERE number = ?", seconds, number)

    def change(self, number: int, settings: SearchSettings, reason: str) -> None:
        """Go on under other settings. Raises LedgerProblem for an unknown one."""
        with self._database.transaction():
            search = self.get(number)
            self._database.update("search", "number = ?", number, settings=encode(settings))
            self._events.write(search.tag, search_id(number), search.state, search.state, reason)

    def move(self, number: int, from_: SearchState, to: SearchState, reason: str) -> bool:
        """False, and nothing written, when it is not in `from_`."""
        with self._database.transaction():
            moved = self._database.move("search", number, from_, to, reason=reason)
            if moved:
                self._events.write(self.get(number).tag, search_id(number), from_, to, reason)
            return moved


class Proposals(Table):
    """Asks to proposers, and what became of each: answered once, or lost with the scheduler that asked.

    asked ──> queued (a new candidate) | known (an earlier one) | failed (no idea)
    """

    def ask(self, tag: str, search: int, proposer: str, base_id: str, round: int, seed: int) -> str:
        """Write an ask down before it goes out. Returns its id."""
        with self._database.transaction():
            ask = {"proposer": proposer, "base": number_of(base_id, "c"), "round": round, "seed": seed}
            asked = {"state": ProposalState.ASKED.value, "asked_at": self._clock()}
            number = self._database.insert("proposal", tag=tag, search=search, **ask, **asked)
            self._events.write(tag, proposal_id(number), "", ProposalState.ASKED, proposer)
            return proposal_id(number)

    def queued(self, ref: str, candidate_id: str, title: str, *, log: str = "", warning: str = "") -> None:
        """It brought a new candidate: call it in the transaction that adds that. Raises LedgerProblem: answered."""
        self._answer(ref, ProposalState.QUEUED, candidate_id, title=title, reason=warning, log=log)

    def known(self, ref: str, candidate_id: str, title: str, *, log: str = "", warning: str = "") -> None:
        """It brought the program of an earlier candidate again. Raises LedgerProblem when it is answered already."""
        self._answer(ref, ProposalState.KNOWN, candidate_id, title=title, reason=warning, log=log)

    def failed(self, ref: str, trouble: ProposalFailure, reason: str, title: str = "", log: str = "") -> None:
        """It brought no idea. Raises LedgerProblem when it is answered already."""
        self._answer(ref, ProposalState.FAILED, None, title=title, trouble=trouble.value, reason=reason, log=log)

    def lose_open(self, tag: str, reason: str) -> int:
        """Fail the asks that are still open: their proposers are gone. Returns how many."""
        with self._database.transaction():
            rows = self._database.all("SELECT number FROM proposal WHERE tag = ? AND state = 'asked'", tag)
            for row in rows:
                self.failed(proposal_id(row["number"]), ProposalFailure.STOPPED, reason)
            return len(rows)

    def list(self, tag: str) -> tuple[Proposal, ...]:
        """All of a lab, in the order of asking."""
        return tuple(
            map(_parse_proposal, self._database.all("SELECT * FROM proposal WHERE tag = ? ORDER BY number", tag))
        )

    def _answer(self, ref: str, to: ProposalState, candidate: str | None, **columns: str) -> None:
        number, answer = number_of(ref, "p"), {"candidate": candidate and number_of(candidate, "c"), **columns}
        with self._database.transaction():
            if not self._database.move("proposal", number, "asked", to, answered_at=self._clock(), **answer):
                raise LedgerProblem(f"{ref} is no open ask: it was answered already, or never went out")
            row = self._database.one("SELECT tag FROM proposal WHERE number = ?", number)
            why = f"{columns['trouble']}: {columns['reason']}" if "trouble" in columns else candidate or ""
            self._events.write(row["tag"], ref, ProposalState.ASKED, to, why)


class Claims(Table):
    """One for each search, written once and never changed."""

    def record(self, tag: str, search: int, claim: Claim) -> None:
        """Raises LedgerProblem when the search has one already."""
        with self._database.transaction():
            if self.of_search(search) is not None:
                raise LedgerProblem(f"the search {search_id(search)} has its claim already", "nothing was changed")
            self._database.insert("claim", tag=tag, search=search, claim=encode(claim), recorded_at=self._clock())
            what = f"{claim.first_id} to {claim.final_id}: {claim.diff:+.6f} ± {claim.se:.6f} bpb"
            self._events.write(tag, f"{search_id(search)}.claim", "", "recorded", what)

    def of_search(self, search: int) -> Claim | None:
        row = self._database.one("SELECT search, claim FROM claim WHERE search = ?", search)
        return _parse_claim(row) if row else None

    def list(self, tag: str) -> tuple[Claim, ...]:
        """Oldest first."""
        rows = self._database.all("SELECT search, claim FROM claim WHERE tag = ? ORDER BY number", tag)
        return tuple(map(_parse_claim, rows))


def _parse_search(row: Any) -> Search:
    settings = decode(row["settings"], SearchSettings, f"the settings of search {search_id(row['number'])}")
    return from_row(Search, row, settings=settings)


def _parse_proposal(row: Any) -> Proposal:
    ids = {"id": proposal_id(row["number"]), "base_id": candidate_id(row["base"])}
    return from_row(Proposal, row, **ids, candidate_id=row["candidate"] and candidate_id(row["candidate"]))


def _parse_claim(row: Any) -> Claim:
    return decode(row["claim"], Claim, f"the claim of search {search_id(row['search'])}")
