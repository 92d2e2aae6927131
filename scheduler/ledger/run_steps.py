"""The single steps of a run's life, each naming the state it leaves and writing its event.

For `Runs`, which puts them together into transactions; nothing here starts one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.domain.errors import LedgerProblem
from scheduler.domain.result import Failed, Infra, Result, Scored
from scheduler.domain.slot import Slot
from scheduler.ledger.db import Database
from scheduler.ledger.events import Events
from scheduler.ledger.ids import number_of
from scheduler.ledger.rows import RUNS

STOPPED = "stopped"  # outcome of an attempt ended on purpose: the one that never counts against a run


class RunSteps:
    def __init__(self, database: Database, events: Events, clock: Callable[[], float]) -> None:
        self._database, self._events, self._clock = database, events, clock

    def row(self, ref: str) -> Any:
        """The run with its last attempt and result. Raises LedgerProblem when there is none."""
        row = self._database.one(f"{RUNS} WHERE run.number = ?", number_of(ref, "r"))
        if row is None:
            raise LedgerProblem(f"no run {ref!r} in the ledger")
        return row

    def take(self, ref: str, slot: Slot) -> bool:
        """Queued to running, for its next attempt. False when it is not queued."""
        moved = self._database.execute(
            "UPDATE run SET state = 'running', attempts = attempts + 1, pool = ?, in_front = 0, note = '', since = ?"
            " WHERE number = ? AND state = 'queued'",
            *(slot.pool, self._clock(), number_of(ref, "r")),
        )
        return bool(moved.rowcount)

    def open_attempt(self, ref: str, slot: Slot, expires_at: float) -> int:
        """Write down the attempt of a run just taken. Returns its number."""
        row = self.row(ref)
        self._database.insert(
            "attempt",
            run=row["number"],
            number=row["attempts"],
            slot_id=slot.id,
            boot_id=slot.boot_id,
            started_at=self._clock(),
            expires_at=expires_at,
        )
        self._events.write(row["tag"], ref, "queued", "running", f"attempt {row['attempts']} on {slot.id}")
        return int(row["attempts"])

    def end_attempt(self, ref: str, attempt: int, outcome: str) -> bool:
        ended = self._database.execute(
            "UPDATE attempt SET ended_at = ?, outcome = ? WHERE run = ? AND number = ? AND ended_at IS NULL",
            *(self._clock(), outcome, number_of(ref, "r"), attempt),
        )
        return bool(ended.rowcount)

    def infra_attempts(self, ref: str) -> int:
        """Ended attempts of a run that count against it: all but those stopped on purpose."""
        sql = "SELECT count(*) FROM attempt WHERE run = ? AND ended_at IS NOT NULL AND outcome != ?"
        return int(self._database.one(sql, number_of(ref, "r"), STOPPED)[0])

    def finish(self, ref: str, attempt: int, result: Result) -> None:
        verdict = result.verdict
        scored = verdict if isinstance(verdict, Scored) else None
        self._database.insert(
            "result",
            run=number_of(ref, "r"),
            attempt=attempt,
            family=_FAMILIES[type(verdict)],
            status=verdict.status,
            reason="" if isinstance(verdict, Scored) else verdict.reason,
            val_bpb=scored and scored.val_bpb,
            val_bpb_upstream=scored and scored.val_bpb_upstream,
            suspect=scored.suspect if scored else "",
            text=result.text,
            recorded_at=self._clock(),
        )
        self.move(ref, "running", "finished", _summary(result))

    def move(self, ref: str, from_: str, to: str, reason: str, in_front: bool = False) -> None:
        moved = self._database.execute(
            "UPDATE run SET state = ?, since = ?, note = ?, in_front = ? WHERE number = ? AND state = ?",
            *(to, self._clock(), reason, in_front, number_of(ref, "r"), from_),
        )
        if not moved.rowcount:
            raise LedgerProblem(f"{ref} is not {from_}, as its attempts say: the ledger contradicts itself")
        self._events.write(self.row(ref)["tag"], ref, from_, to, reason)

    def refuse(self, ref: str, attempt: int, what: str) -> None:
        """Write down that an attempt came too late. It is the attempt's story, not the run's: that did not move."""
        reason = f"{what}: refused, the attempt does not hold the lease"
        self._events.write(self.row(ref)["tag"], f"{ref}.{attempt}", "", "refused", reason)


_FAMILIES: dict[type, str] = {Scored: "scored", Failed: "failed", Infra: "infra"}


def _summary(result: Result) -> str:
    verdict = result.verdict
    if isinstance(verdict, Scored):
        return f"{verdict.status}: val_bpb {verdict.val_bpb:.6f}"
    return f"{verdict.status}: {verdict.reason}" if verdict.reason else verdict.status
