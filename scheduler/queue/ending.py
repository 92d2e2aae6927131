"""How a process left the queue it ran or watched."""

from __future__ import annotations

from enum import Enum


class Ending(Enum):
    """PAUSED: somebody paused the lab, and what ran is over."""

    DONE = "done"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"
