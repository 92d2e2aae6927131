"""Which search is to be run: the lab's unfinished one, under old words or new ones, or a fresh one.

Planned first and written down afterwards, so that words that cannot be carried out leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from scheduler.domain.search import Budget, Search, SearchSettings, SearchState
from scheduler.policy.budget import HOUR_S
from scheduler.search.settings import describe_budget, describe_proposers, extended, fresh
from scheduler.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Plan:
    """`unfinished` None: a fresh search. `changes` are what new words change in one that goes on, a line each."""

    unfinished: Search | None
    settings: SearchSettings
    changes: tuple[str, ...] = ()
    unheard: bool = False  # new words came when ideas were over already

    @property
    def is_closing(self) -> bool:
        return self.unfinished is not None and self.unfinished.state is SearchState.CLAIMING

    def begin(self, space: Workspace, say: Callable[[str], None]) -> Search:
        """Write it down and say it. Raises LedgerProblem."""
        if self.unfinished is None:
            search = space.ledger.searches.start(space.tag, self.settings)
            said = describe_budget(self.settings.budget), describe_proposers(self.settings.proposers)
            say(f"search    {search.number} begins: {said[0]}; ideas from {said[1]}")
            return search
        if self.changes:
            space.ledger.searches.change(self.unfinished.number, self.settings, "; ".join(self.changes))
        self._say_going_on(self.unfinished, say)
        return replace(self.unfinished, settings=self.settings)

    def _say_going_on(self, search: Search, say: Callable[[str], None]) -> None:
        if self.is_closing:
            say(f"search    {search.number} goes on with its end: {search.reason}")
        else:
            say(f"search    {search.number} goes on, {search.active_s / HOUR_S:.2f} hours in")
        for change in self.changes:
            say(f"note: {change}")
        if self.unheard:
            say("note: its budget is over, so new settings are for the next search: give them again afterwards")


def plan_search(space: Workspace, settings: SearchSettings | None) -> Plan | None:
    """None when the last search is over and nobody asked for another. Raises UsageProblem without a budget."""
    gates, searches = space.ledger.labs.get(space.tag).gates, space.ledger.searches
    unfinished = searches.current(space.tag)
    if unfinished is None:
        if settings is None and searches.list(space.tag):
            return None
        return Plan(None, fresh(settings or SearchSettings(Budget(), ()), gates))
    if settings is None or unfinished.state is SearchState.CLAIMING:
        return Plan(unfinished, unfinished.settings, unheard=settings is not None)
    return Plan(unfinished, *extended(unfinished.settings, settings, gates))
