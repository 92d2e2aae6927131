"""Candidates in the ledger: added with their runs in one transaction, found by id, name or fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.domain.candidate import Candidate, CandidateState, Origin
from scheduler.domain.errors import CandidateRejected, LedgerProblem, UsageProblem
from scheduler.domain.run import Run, RunKind, Running
from scheduler.ledger.db import Database
from scheduler.ledger.events import Events
from scheduler.ledger.ids import candidate_id, is_reserved, number_of, unknown
from scheduler.ledger.rows import parse_candidate
from scheduler.ledger.runs import Runs


class Candidates:
    def __init__(self, database: Database, events: Events, runs: Runs, clock: Callable[[], float]) -> None:
        self._database, self._events, self._runs, self._clock = database, events, runs, clock

    def add(
        self,
        tag: str,
        *,
        name: str,
        commit: str,
        base_id: str | None,
        train_py: bytes,
        train_sha256: str,
        fingerprint: str,
        title: str,
        author: str,
        kind: RunKind,
        runs: int = 1,
        state: CandidateState = CandidateState.OPEN,
        origin: Origin = Origin.SUBMITTED,
        proposer: str = "",
        hypothesis: str = "",
        theme: str = "",
        round: int | None = None,
        code_lines: int = 0,
    ) -> Candidate:
        """Add a candidate, its source and `runs` queued runs, all or nothing.

        Raises CandidateRejected when the name is taken or reads like an id, LedgerProblem when the base is of no lab
        like this or a second baseline would arise.
        """
        if runs < 1:
            raise ValueError("a candidate needs a run")
        with self._database.transaction():
            self._check(tag, name, base_id, state)
            number = self._database.insert(
                "candidate",
                tag=tag,
                name=name,
                commit_id=commit,
                base=None if base_id is None else number_of(base_id, "c"),
                train_sha256=train_sha256,
                fingerprint=fingerprint,
                title=title,
                author=author,
                submitted_at=self._clock(),
                state=state.value,
                origin=origin.value,
                proposer=proposer,
                hypothesis=hypothesis,
                theme=theme,
                round=round,
                code_lines=code_lines,
            )
            self._database.insert("source", candidate=number, train_py=train_py)
            self._events.write(tag, candidate_id(number), "", state.value, title)
            for _ in range(runs):
                self._runs.add(candidate_id(number), kind, "submitted")
            return self._of(number)

    def get(self, ref: str, tag: str) -> Candidate:
        """By id, name or "last". Raises UsageProblem naming the nearest when there is none in this lab."""
        number = number_of(ref, "c")
        if ref == "last":
            rows = self._all("number = (SELECT max(number) FROM candidate WHERE tag = ?)", tag)
        elif number is not None:
            rows = self._all("tag = ? AND number = ?", tag, number)
        else:
            rows = self._all("tag = ? AND name = ?", tag, ref)
        if not rows:
            raise self._unknown(ref, tag)
        return parse_candidate(rows[0])

    def list(self, tag: str) -> tuple[Candidate, ...]:
        """All of a lab, in the order of their submission."""
        return tuple(map(parse_candidate, self._all("tag = ?", tag)))

    def names(self, tag: str) -> set[str]:
        """Every name that is taken."""
        return {row["name"] for row in self._database.all("SELECT name FROM candidate WHERE tag = ?", tag)}

    def find_fingerprint(self, tag: str, fingerprint: str) -> Candidate | None:
        """The first candidate whose source says the same."""
        rows = self._all("tag = ? AND fingerprint = ?", tag, fingerprint)
        return parse_candidate(rows[0]) if rows else None

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
            moved = self._database.execute(
                "UPDATE candidate SET state = ? WHERE number = ? AND state = ?", to.value, number, from_.value
            )
            if moved.rowcount:
                self._events.write(self._of(number).tag, ref, from_.value, to.value, reason)
            return bool(moved.rowcount)

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

    def _check(self, tag: str, name: str, base_id: str | None, state: CandidateState) -> None:
        if is_reserved(name) or not name:
            raise CandidateRejected(f"a candidate cannot be called {name!r}", "choose a name that is no id")
        taken = self._all("tag = ? AND name = ?", tag, name)
        if taken:
            message = f"the name {name!r} is taken in lab {tag!r} by {candidate_id(taken[0]['number'])}"
            raise CandidateRejected(message, "choose another name: a candidate keeps its name for ever")
        if base_id is not None and not self._all("tag = ? AND number = ?", tag, number_of(base_id, "c")):
            raise LedgerProblem(f"base {base_id!r} is no candidate of lab {tag!r}")
        if state is CandidateState.BASELINE and self._all("tag = ? AND state = 'baseline'", tag):
            raise LedgerProblem(f"lab {tag!r} already has a baseline")

    def _unknown(self, ref: str, tag: str) -> UsageProblem:
        elsewhere = self._all("number = ? OR name = ?", number_of(ref, "c"), ref)
        if elsewhere:
            other = elsewhere[0]["tag"]
            return UsageProblem(f"candidate {ref!r} is of lab {other!r}, not {tag!r}", f"add --tag {other}")
        known = [word for candidate in self.list(tag) for word in (candidate.name, candidate.id)]
        return unknown("candidate", ref, tag, known)

    def _of(self, number: int | None) -> Candidate:
        return parse_candidate(self._all("number = ?", number)[0])

    def _all(self, condition: str, *values: object) -> Any:
        return self._database.all(f"SELECT * FROM candidate WHERE {condition} ORDER BY number", *values)
