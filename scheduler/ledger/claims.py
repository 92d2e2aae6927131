"""Claims of searches: one each, written once and never changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from scheduler.domain.claim import Claim
from scheduler.domain.errors import LedgerProblem
from scheduler.ledger.db import Database
from scheduler.ledger.events import Events
from scheduler.ledger.ids import search_id
from scheduler.ledger.rows import known_fields


class Claims:
    def __init__(self, database: Database, events: Events, clock: Callable[[], float]) -> None:
        self._database, self._events, self._clock = database, events, clock

    def record(self, tag: str, search: int, claim: Claim) -> None:
        """Raises LedgerProblem when the search has one already."""
        with self._database.transaction():
            if self.of_search(search) is not None:
                raise LedgerProblem(f"the search {search_id(search)} has its claim already", "nothing was changed")
            text = json.dumps(asdict(claim))
            self._database.insert("claim", tag=tag, search=search, claim=text, recorded_at=self._clock())
            what = f"{claim.first_id} to {claim.final_id}: {claim.diff:+.6f} ± {claim.se:.6f} bpb"
            self._events.write(tag, f"{search_id(search)}.claim", "", "recorded", what)

    def of_search(self, search: int) -> Claim | None:
        row = self._database.one("SELECT claim FROM claim WHERE search = ?", search)
        return _parse_claim(row) if row else None

    def list(self, tag: str) -> tuple[Claim, ...]:
        """Oldest first."""
        rows = self._database.all("SELECT claim FROM claim WHERE tag = ? ORDER BY number", tag)
        return tuple(map(_parse_claim, rows))


def _parse_claim(row: Any) -> Claim:
    raw = known_fields(Claim, json.loads(row["claim"]))
    scores = {name: tuple(raw[name]) for name in ("first_scores", "final_scores")}
    return Claim(**(raw | scores))
