"""Searches in the ledger: one per lab that has not ended, with its settings and the time it was run.

running ──> claiming ──> ended
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from scheduler.domain.errors import LedgerProblem
from scheduler.domain.search import Budget, ProposerChoice, Search, SearchSettings, SearchState
from scheduler.ledger.db import Database
from scheduler.ledger.events import Events
from scheduler.ledger.ids import search_id
from scheduler.ledger.rows import known_fields


class Searches:
    def __init__(self, database: Database, events: Events, clock: Callable[[], float]) -> None:
        self._database, self._events, self._clock = database, events, clock

    def start(self, tag: str, settings: SearchSettings) -> Search:
        """Raises LedgerProblem when the lab has one that has not ended."""
        with self._database.transaction():
            earlier = self.current(tag)
            if earlier is not None:
                message = f"lab {tag!r} has the search {search_id(earlier.number)}, which is {earlier.state}"
                raise LedgerProblem(message, "go on with it, or end it first")
            number = self._database.insert(
                "search",
                tag=tag,
                settings=_settings_text(settings),
                started_at=self._clock(),
                state=SearchState.RUNNING.value,
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
            self._database.execute("UPDATE search SET settings = ? WHERE number = ?", _settings_text(settings), number)
            self._events.write(search.tag, search_id(number), search.state, search.state, reason)

    def move(self, number: int, from_: SearchState, to: SearchState, reason: str) -> bool:
        """False, and nothing written, when it is not in `from_`."""
        with self._database.transaction():
            moved = self._database.execute(
                "UPDATE search SET state = ?, reason = ? WHERE number = ? AND state = ?",
                *(to.value, reason, number, from_.value),
            )
            if moved.rowcount:
                self._events.write(self.get(number).tag, search_id(number), from_, to, reason)
            return bool(moved.rowcount)


def _settings_text(settings: SearchSettings) -> str:
    return json.dumps(asdict(settings))


def _parse_settings(text: str) -> SearchSettings:
    """Settings an older program did not know take their default, ones this program does not know are left out."""
    raw = known_fields(SearchSettings, json.loads(text))
    budget = Budget(**known_fields(Budget, raw["budget"]))
    return SearchSettings(**(raw | {"budget": budget, "proposers": tuple(map(_parse_choice, raw["proposers"]))}))


def _parse_choice(raw: dict[str, Any]) -> ProposerChoice:
    known = known_fields(ProposerChoice, raw)
    return ProposerChoice(**(known | {"options": tuple((key, value) for key, value in known.get("options", ()))}))


def _parse_search(row: Any) -> Search:
    return Search(
        number=row["number"],
        tag=row["tag"],
        settings=_parse_settings(row["settings"]),
        started_at=row["started_at"],
        active_s=row["active_s"],
        state=SearchState(row["state"]),
        reason=row["reason"],
    )
