"""The history: one line for every change of state, written in the transaction of that change and never altered."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.domain.event import Event
from scheduler.ledger.db import Database

REASON_CHARACTERS = 500  # a result keeps its whole text; the history only says why


class Events:
    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def write(self, tag: str, subject: str, from_state: str, to_state: str, reason: str) -> None:
        """Append one line. For the ledger's own rooms: call it inside the transaction of the change."""
        self._database.insert(
            "event",
            at=self._clock(),
            tag=tag,
            subject=subject,
            from_state=from_state,
            to_state=to_state,
            reason=reason[:REASON_CHARACTERS],
        )

    def list(self, tag: str, limit: int | None = None) -> tuple[Event, ...]:
        """The latest `limit` events of a lab (all without a limit), oldest first."""
        rows = self._database.all(
            "SELECT * FROM event WHERE tag = ? ORDER BY number DESC LIMIT ?", tag, -1 if limit is None else limit
        )
        return tuple(
            Event(r["number"], r["at"], r["tag"], r["subject"], r["from_state"], r["to_state"], r["reason"])
            for r in reversed(rows)
        )
