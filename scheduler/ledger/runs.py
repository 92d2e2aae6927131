"""Runs in the ledger: added, found, leased to a slot, finished once.

    queued ──lease──> running ──record──> finished
       ^                 │ requeue (the third that counts finishes the run)
       └─────────────────┘                cancel: queued or running ──> cancelled

Every move names the state it leaves, so of two movers one changes nothing. An attempt holds the lease from `lease`
until it is recorded, requeued or cancelled: only then is its result refused, not when the clock passes `expires_at`,
because a result that nobody else is computing is still the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.domain.errors import LedgerProblem
from scheduler.domain.result import Result, infra_result
from scheduler.domain.run import Attempt, Run, RunKind, RunState
from scheduler.domain.slot import Slot
from scheduler.ledger.db import Database
from scheduler.ledger.events import Events
from scheduler.ledger.ids import number_of, run_id, unknown
from scheduler.ledger.rows import RUNS, parse_attempt, parse_run
from scheduler.ledger.run_steps import STOPPED, RunSteps

MAX_INFRA_ATTEMPTS = 3  # attempts the lab may lose before it gives a run up
LOST, CANCELLED = "lost", "cancelled"  # outcomes of an attempt without a result


class Runs:
    def __init__(self, database: Database, events: Events, clock: Callable[[], float]) -> None:
        self._database, self._events, self._clock = database, events, clock
        self._steps = RunSteps(database, events, clock)

    def get(self, ref: str, tag: str) -> Run:
        """By id or "last". Raises UsageProblem naming the nearest when there is none in this lab."""
        if ref == "last":
            rows = self._all("run.tag = ? ORDER BY run.number DESC LIMIT 1", tag)
        else:
            rows = self._all("run.tag = ? AND run.number = ?", tag, number_of(ref, "r"))
        if not rows:
            raise unknown("run", ref, tag, [run.id for run in self.list(tag)])
        return parse_run(rows[0])

    def list(self, tag: str) -> tuple[Run, ...]:
        """All of a lab, in the order of their queueing."""
        return self._parsed("run.tag = ? ORDER BY run.number", tag)

    def of_candidate(self, candidate_id: str) -> tuple[Run, ...]:
        return self._parsed("run.candidate = ? ORDER BY run.number", number_of(candidate_id, "c"))

    def queued(self, tag: str) -> tuple[Run, ...]:
        """Runs that lost an attempt through no fault of theirs come first, then in the order of their queueing."""
        return self._parsed("run.tag = ? AND run.state = 'queued' ORDER BY run.in_front DESC, run.number", tag)

    def running(self, tag: str) -> tuple[Run, ...]:
        return self._parsed("run.tag = ? AND run.state = 'running' ORDER BY run.number", tag)

    def expired(self, tag: str, now: float) -> tuple[Run, ...]:
        """Running runs whose lease nobody renewed in time: harvest them if their node has a result, else requeue."""
        condition = "run.tag = ? AND run.state = 'running' AND attempt.expires_at <= ? ORDER BY run.number"
        return self._parsed(condition, tag, now)

    def last_result(self) -> int:
        """Number of the latest result of any lab, 0 before the first: results up to it are known by now."""
        return int(self._database.one("SELECT coalesce(max(number), 0) FROM result")[0])

    def attempts(self, ref: str) -> tuple[Attempt, ...]:
        rows = self._database.all("SELECT * FROM attempt WHERE run = ? ORDER BY number", number_of(ref, "r"))
        return tuple(map(parse_attempt, rows))

    def add(self, candidate_id: str, kind: RunKind, reason: str) -> Run:
        """Queue a run with a seed no other run of the lab has: 1, 2, 3, … Raises LedgerProblem: no such candidate."""
        with self._database.transaction():
            candidate = number_of(candidate_id, "c")
            owner = self._database.one("SELECT tag FROM candidate WHERE number = ?", candidate)
            if owner is None:
                raise LedgerProblem(f"cannot queue a run: no candidate {candidate_id!r}")
            tag = owner["tag"]
            seed = self._database.one("SELECT coalesce(max(seed), 0) + 1 FROM run WHERE tag = ?", tag)[0]
            number = self._database.insert(
                "run", tag=tag, candidate=candidate, kind=kind.value, seed=seed, state="queued", since=self._clock()
            )
            self._events.write(tag, run_id(number), "", "queued", reason)
            return parse_run(self._steps.row(run_id(number)))

    def lease(self, ref: str, slot: Slot, expires_at: float) -> int | None:
        """Give a queued run to a slot. Returns the attempt's number, or None when it is not queued any more."""
        with self._database.transaction():
            return self._steps.open_attempt(ref, slot, expires_at) if self._steps.take(ref, slot) else None

    def renew(self, ref: str, attempt: int, expires_at: float) -> bool:
        """Push the expiry of a lease. False when that attempt does not hold it."""
        with self._database.transaction():
            moved = self._database.execute(
                "UPDATE attempt SET expires_at = ? WHERE run = ? AND number = ? AND ended_at IS NULL",
                *(expires_at, number_of(ref, "r"), attempt),
            )
            return bool(moved.rowcount)

    def record(self, ref: str, attempt: int, result: Result) -> bool:
        """Finish a run with the result of the attempt that holds its lease.

        False when another does or none: then nothing but an event is written, and the result is worth nothing.
        """
        with self._database.transaction():
            if not self._steps.end_attempt(ref, attempt, result.verdict.status):
                self._steps.refuse(ref, attempt, f"result {result.verdict.status!r}")
                return False
            self._steps.finish(ref, attempt, result)
            return True

    def requeue(
        self,
        ref: str,
        attempt: int,
        reason: str,
        front: bool = True,
        *,
        counts: bool = True,
        result: Result | None = None,
    ) -> RunState:
        """Take the lease from an attempt that will give no score, and queue the run again.

        The third attempt that counts finishes the run instead, with `result` (what an infra judge wrote) or one saying
        why. `counts=False` is for attempts ended on purpose, as by Ctrl-C. An attempt without the lease changes
        nothing. Returns the state the run is in now.
        """
        with self._database.transaction():
            outcome = STOPPED if not counts else result.verdict.status if result else LOST
            if not self._steps.end_attempt(ref, attempt, outcome):
                self._steps.refuse(ref, attempt, f"requeue: {reason}")
            elif counts and self._steps.infra_attempts(ref) >= MAX_INFRA_ATTEMPTS:
                self._steps.finish(ref, attempt, result or infra_result(LOST, reason))
            else:
                self._steps.move(ref, "running", "queued", reason, in_front=front)
            return parse_run(self._steps.row(ref)).state

    def cancel(self, ref: str, reason: str) -> bool:
        """Cancel a queued or running run. False when it is already over. Stopping its attempt is the caller's."""
        with self._database.transaction():
            row = self._steps.row(ref)
            if row["state"] not in ("queued", "running"):
                return False
            if row["state"] == "running":
                self._steps.end_attempt(ref, row["attempts"], CANCELLED)
            self._steps.move(ref, row["state"], "cancelled", reason)
            return True

    def _all(self, condition: str, *values: object) -> Any:
        return self._database.all(f"{RUNS} WHERE {condition}", *values)

    def _parsed(self, condition: str, *values: object) -> tuple[Run, ...]:
        return tuple(map(parse_run, self._all(condition, *values)))
