"""Candidates in the ledger: added with their runs in one transaction, found by id, name or fingerprint."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.domain.candidate import Candidate, CandidateState, NewCandidate
from scheduler.domain.errors import CandidateRejected, LedgerProblem, UsageProblem
from scheduler.domain.run import Run, Running
from scheduler.ledger.db import Database
from scheduler.ledger.rows import (
    CANDIDATES,
    Events,
    Table,
    candidate_id,
    is_reserved,
    number_of,
    parse_candidate,
    unknown,
)
from scheduler.ledger.runs import Runs

_AS_GIVEN = ("name", "title", "author", "proposer", "hypothesis", "theme", "round")  # columns that are fields


class Candidates(Table):
    def __init__(self, runs: Runs, database: Database, events: Events, clock: Callable[[], float]) -> None:
        super().__init__(database, events, clock)
        self._runs = runs

    def add(self, tag: str, new: NewCandidate, number: int | None = None) -> Candidate:
        """Add a candidate, its source and its queued runs, all or nothing. `number`: the one it had, when restored.

        Raises CandidateRejected when the name is taken or reads like an id, LedgerProblem when the base is of no lab
        like this or a second baseline would arise.
        """
        if new.runs < 1:
            raise ValueError("a candidate needs a run")
        with self._database.transaction():
            self._check(tag, new)
            source, columns = new.source, {name: getattr(new, name) for name in _AS_GIVEN}
            columns |= {"tag": tag, "commit_id": new.commit, "base": new.base_id and number_of(new.base_id, "c")}
            columns |= {"submitted_at": self._clock(), "state": new.state.value, "origin": new.origin.value}
            columns |= {"train_sha256": source.sha256, "fingerprint": source.fingerprint}
            number = self._database.insert("candidate", number=number, **columns, code_lines=source.code_lines)
            self._database.insert("source", candidate=number, train_py=source.data)
            self._events.write(tag, candidate_id(number), "", new.state.value, new.title)
            for _ in range(new.runs):
                self._runs.add(candidate_id(number), new.kind, "submitted")
            return self._all("number = ?", number)[0]

    def skip_to(self, number: int) -> None:
        """Give no id up to this number from here on: git keeps candidates of a lost ledger by them."""
        with self._database.transaction():
            if (
                self._database.one("SELECT 1 FROM sqlite_sequence WHERE name = 'candidate' AND seq >= ?", number)
                is None
            ):
                self._database.execute("DELETE FROM sqlite_sequence WHERE name = 'candidate'")
                self._database.insert("sqlite_sequence", name="candidate", seq=number)

    def get(self, ref: str, tag: str) -> Candidate:
        """By id, name or "last". Raises UsageProblem naming the nearest when there is none in this lab."""
        number = number_of(ref, "c")
        if ref == "last":
            found = self._all("number = (SELECT max(number) FROM candidate WHERE tag = ?)", tag)
        else:
            column, value = ("name", ref) if number is None else ("number", number)
            found = self._all(f"tag = ? AND {column} = ?", tag, value)
        if found:
            return found[0]
        elsewhere = self._all("number = ? OR name = ?", number, ref)
        if elsewhere:
            other = elsewhere[0].tag
            raise UsageProblem(f"candidate {ref!r} is of lab {other!r}, not {tag!r}", f"add --tag {other}")
        known = [word for candidate in self.list(tag) for word in (candidate.name, candidate.id)]
        raise unknown("candidate", ref, tag, known)

    def list(self, tag: str) -> tuple[Candidate, ...]:
        """All of a lab, in the order of their submission."""
        return self._all("tag = ?", tag)

    def first(self, tag: str) -> Candidate | None:
        """The first baseline; None while `arsched init` has not come so far."""
        return next(iter(self._all("tag = ? AND base IS NULL", tag)), None)

    def names(self, tag: str) -> set[str]:
        """Every name that is taken."""
        return {row["name"] for row in self._database.all("SELECT name FROM candidate WHERE tag = ?", tag)}

    def find_fingerprint(self, tag: str, fingerprint: str) -> Candidate | None:
        """The first candidate whose program is the same."""
        return next(iter(self._all("tag = ? AND fingerprint = ?", tag, fingerprint)), None)

    def train_py(self, ref: str) -> bytes:
        """Source of a candidate by its id. Raises LedgerProblem for an unknown one."""
        row = self._database.one("SELECT train_py FROM source WHERE candidate = ?", number_of(ref, "c"))
        if row is None:
            raise LedgerProblem(f"no source of {ref!r} in the ledger")
        return bytes(row["train_py"])

    def set_state(self, ref: str, from_: CandidateState, to: CandidateState, reason: str) -> bool:
        """Move a candidate that is in `from_`. False, and nothing written, when it is not."""
        with self._database.transaction():
            number = number_of(ref, "c")
            moved = self._database.move("candidate", number, from_, to)
            if moved:
                self._events.write(self._all("number = ?", number)[0].tag, ref, from_, to, reason)
            return moved

    def cancel(self, ref: str, reason: str) -> tuple[Run, ...] | None:
        """Cancel an undecided candidate and its runs. Returns the runs that were running, still to be stopped.

        None, and nothing written, when it is already decided on.
        """
        with self._database.transaction():
            undecided = [state for state in CandidateState if state.undecided]
            if not any(self.set_state(ref, state, CandidateState.CANCELLED, reason) for state in undecided):
                return None
            runs = self._runs.of_candidate(ref)
            for run in runs:
                self._runs.cancel(run.id, reason)
            return tuple(run for run in runs if isinstance(run.state, Running))

    def _check(self, tag: str, new: NewCandidate) -> None:
        if is_reserved(new.name) or not new.name:
            raise CandidateRejected(f"a candidate cannot be called {new.name!r}", "choose a name that is no id")
        taken = self._all("tag = ? AND name = ?", tag, new.name)
        if taken:
            message = f"the name {new.name!r} is taken in lab {tag!r} by {taken[0].id}"
            raise CandidateRejected(message, "choose another name: a candidate keeps its name permanently")
        if new.base_id is not None and not self._all("tag = ? AND number = ?", tag, number_of(new.base_id, "c")):
            raise LedgerProblem(f"base {new.base_id!r} is no candidate of lab {tag!r}")
        if new.state is CandidateState.BASELINE and self._all("tag = ? AND state = 'baseline'", tag):
            raise LedgerProblem(f"lab {tag!r} already has a baseline")

    def _all(self, condition: str, *values: object) -> tuple[Candidate, ...]:
        rows = self._database.all(f"{CANDIDATES} WHERE {condition} ORDER BY number", *values)
        return tuple(map(parse_candidate, rows))
