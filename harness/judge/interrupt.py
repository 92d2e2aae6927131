"""Ctrl-C, SIGTERM and SIGHUP as something the judge asks for, never as an exception in the middle of a step.

Covers: taking the signals one by one while they stay blocked, outliving a second and a third, and not obeying those
that the candidate sends. Not covered: acting on them.
"""

from __future__ import annotations

import os
import signal

from harness.containment import FORWARDED_SIGNALS, Containment
from harness.processes import descendants


class Interrupt:
    """The signals that mean stop; the caller has blocked them and keeps them blocked."""

    def __init__(self, containment: Containment) -> None:
        self._own_namespace = containment == "namespace"
        self._name: str | None = None

    def signal_name(self) -> str | None:
        """The first signal that has come from outside the run, or None."""
        while self._name is None:
            info = signal.sigtimedwait(FORWARDED_SIGNALS, 0)
            if info is None:
                return None
            if not self._is_the_candidates(info.si_pid):
                self._name = signal.Signals(info.si_signo).name
        return self._name

    def _is_the_candidates(self, sender: int) -> bool:
        # Processes outside the judge's namespace have no number inside it: they, and the terminal, send as 0.
        return sender > 0 if self._own_namespace else sender in descendants(os.getpid())
