"""What somebody who watches sees: status, leaderboard, staircase. Looks every second, reads only what changed.

The ledger is read again when its history has a new line; what a search has spent when anything was written at all; the
live file every time. Never writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.proposal import Proposal
from scheduler.ledger import Ledger
from scheduler.live import read_live
from scheduler.views.efficiency import Efficiency, efficiency
from scheduler.views.facts import LabFacts, read_facts
from scheduler.views.history import History, history
from scheduler.views.ideas import open_ideas
from scheduler.views.leaderboard import Leaderboard, leaderboard
from scheduler.views.plain import View, utc
from scheduler.views.search import ClaimView, SearchView, read_search
from scheduler.views.slot_time import slot_time
from scheduler.views.status import Status, status
from scheduler.views.stays import read_stays
from scheduler.views.summary import last_claim


@dataclass(frozen=True, slots=True)
class Watch(View):
    """One look, at `at`."""

    at: str
    status: Status
    leaderboard: Leaderboard
    history: History


@dataclass(frozen=True, slots=True)
class _Read:
    """The part of a look that only changes with the history."""

    event: int
    facts: LabFacts
    leaderboard: Leaderboard
    history: History
    used: Efficiency
    claim: ClaimView | None
    proposals: Sequence[Proposal]


class Watcher:
    """Looks at one lab again and again. `live` is the path of its live file."""

    def __init__(self, ledger: Ledger, tag: str, live: Path) -> None:
        self._ledger, self._tag, self._live = ledger, tag, live
        self._known: _Read | None = None
        self._search: SearchView | None = None
        self._stamp: tuple[int, int] | None = None

    def look(self, now: float) -> Watch:
        """`now` in seconds since the epoch. Raises LedgerProblem when the ledger cannot be read."""
        stamp = self._ledger.stamp()
        if self._known is None or stamp != self._stamp:
            self._known, self._stamp = self._read(self._known), stamp
            self._search = read_search(self._ledger, self._known.facts)
        known = self._known
        seen = status(
            known.facts,
            read_live(self._live),
            now,
            used=known.used,
            search=self._search,
            claim=known.claim,
            ideas=open_ideas(known.proposals, now),
        )
        return Watch(utc(now), seen, known.leaderboard, known.history)

    def _read(self, known: _Read | None) -> _Read:
        with self._ledger.snapshot():
            events = self._ledger.events.list(self._tag, limit=1)
            last = events[-1].number if events else 0
            if known is not None and known.event == last:
                return known
            facts = read_facts(self._ledger, self._ledger.labs.get(self._tag))
            stays = read_stays(self._ledger, facts)
            return _Read(
                event=last,
                facts=facts,
                leaderboard=leaderboard(facts),
                history=history(facts),
                used=efficiency(facts, stays, slot_time(stays)),
                claim=last_claim(self._ledger, facts),
                proposals=self._ledger.proposals.list(self._tag),
            )
