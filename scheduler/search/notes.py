"""What an ask says of the lab: NOTES.md as text, from facts read anew when the ledger has changed."""

from __future__ import annotations

from scheduler.brief import BriefFacts, read_brief_facts, write_brief
from scheduler.workspace import Workspace


class Notes:
    """Call it with the number of the ask."""

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._stamp: object = None
        self._facts: BriefFacts | None = None

    def __call__(self, ask_number: int) -> str:
        stamp = self._space.ledger.stamp()
        if self._facts is None or stamp != self._stamp:
            self._stamp, self._facts = stamp, read_brief_facts(self._space.ledger, self._space.lab)
        return write_brief(self._facts, ask_number)
