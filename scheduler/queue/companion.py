"""What may keep the loop company: somebody who brings candidates while the queue is run, and says when it is over.

A search is one; a `submit` needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scheduler.domain.run import Run


class Companion(Protocol):
    """Asked once a round by whoever runs the queue; none of it blocks for the length of a run."""

    @property
    def search(self) -> int:
        """Its number, for the live file; 0 = none."""

    def step(self, slots: int, *, resting: bool) -> None:
        """After the decisions, before placing. `slots` are usable now; `resting`: nothing new is to begin."""

    def placeable(self, queued: Sequence[Run]) -> Sequence[Run]:
        """The queued runs that may start now."""

    def wants_more(self) -> bool:
        """Whether something is still to come although nothing is queued, running or undecided."""

    def is_busy(self) -> bool:
        """Whether somebody works for it now beside the slots."""

    def note(self) -> str:
        """What it does, in a few words for the screen; "" when there is nothing to say."""


class Nobody:
    """The companion of a queue that is run for its own sake."""

    @property
    def search(self) -> int:
        return 0

    def step(self, slots: int, *, resting: bool) -> None:
        pass

    def placeable(self, queued: Sequence[Run]) -> Sequence[Run]:
        return queued

    def wants_more(self) -> bool:
        return False

    def is_busy(self) -> bool:
        return False

    def note(self) -> str:
        return ""
