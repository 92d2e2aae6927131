"""One proposer in a search: what it was asked for, its troubles in a row, when it may be asked again.

A proposer that keeps failing rests for longer and longer and is given up in the end; others do not notice. One that has
brought ideas before is most likely cut off for a while (an outage, a usage limit), so it is given up hours later. Asks
that fail together are one trouble: they say no more than one of them would. Knows no ledger.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.domain.proposal import Ask, Proposer
from scheduler.policy.shares import KNOWN_PATIENCE, PATIENCE, PROVEN_PATIENCE, rest_s


@dataclass
class Desk:
    """`ideas` counts new candidates of this proposer, earlier processes of the search included."""

    name: str  # as the search chose it
    proposer: Proposer
    weight: float
    ideas: int = 0
    open: dict[str, tuple[Ask, float]] = field(default_factory=dict)  # ask and when it was asked
    given_up: str = ""  # why it is not asked any more
    _troubles: int = 0
    _known: int = 0
    _rests_until: float = float("-inf")
    _trouble_at: float = float("-inf")

    @property
    def claimed(self) -> int:
        """Ideas it has brought or is asked for."""
        return self.ideas + len(self.open)

    def is_able(self, now: float) -> bool:
        return not self.given_up and len(self.open) < self.proposer.capacity and now >= self._rests_until

    def begin(self, ask: Ask, now: float) -> None:
        """Raises ProposerProblem when it cannot begin."""
        self.open[ask.id] = (ask, now)
        try:
            self.proposer.ask(ask)
        except BaseException:
            del self.open[ask.id]
            raise

    def brought_idea(self) -> None:
        self.ideas += 1
        self._troubles = self._known = 0
        self._rests_until = float("-inf")

    def brought_known(self, asked_at: float, now: float) -> str:
        """The third repeat in a row is a trouble. Returns what to say of it, or ""."""
        self._known += 1
        return self.was_trouble(asked_at, now, "only repeats") if self._known >= KNOWN_PATIENCE else ""

    def was_trouble(self, asked_at: float, now: float, reason: str) -> str:
        """Returns what to say the first time and the last, else ""."""
        if asked_at < self._trouble_at or self.given_up:
            return ""
        self._troubles, self._trouble_at = self._troubles + 1, now
        if self._troubles >= self._patience:
            return self.give_up(f"{self._troubles} troubles in a row, the last: {reason}")
        self._rests_until = now + rest_s(self._troubles)
        return f"note: {self.name} rests for {rest_s(1):.0f} s, longer each time" if self._troubles == 1 else ""

    @property
    def _patience(self) -> int:
        """Repeats are no outage: whoever brings only those has run out of ideas."""
        return PROVEN_PATIENCE if self.ideas and self._known < KNOWN_PATIENCE else PATIENCE

    def give_up(self, reason: str) -> str:
        """Returns what to say."""
        self.given_up = reason
        return f"note: {self.name} is not asked any more in this search: {reason}"
