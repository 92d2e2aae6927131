"""Ctrl-C as a question the loop asks, not as an exception in the middle of a step.

Once: place nothing new, let what runs finish. Twice (or SIGTERM, SIGHUP): stop what runs now. Three times: leave at
once, whatever is left undone; the ledger is whole at every moment.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

FINISH, STOP, LEAVE = 1, 2, 3
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupt:
    """A context manager that counts signals while it is entered. For the main thread."""

    def __init__(self) -> None:
        self.level = 0
        self._before: dict[int, Any] = {}

    @property
    def finishing(self) -> bool:
        return self.level >= FINISH

    @property
    def stopping(self) -> bool:
        return self.level >= STOP

    def finish(self) -> None:
        """What Ctrl-C once asks for, asked for in another way."""
        self.level = max(FINISH, self.level)

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.level = self.level + 1 if number == signal.SIGINT else max(STOP, self.level + 1)
        if self.level >= LEAVE:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _SHOW_CURSOR)
            os._exit(130)
