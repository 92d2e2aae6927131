"""Ctrl-C, SIGTERM and SIGHUP as something the judge's loop can wait for, never as an exception in the middle of a step.

Covers: remembering the first signal, waking the loop, outliving a second and a third one. Not covered: acting on it.
"""

from __future__ import annotations

import contextlib
import os
import signal

from harness.containment import FORWARDED_SIGNALS


class Interrupt:
    """Handlers for the signals that mean stop; `signal_name` is set once one has come."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in FORWARDED_SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED_SIGNALS)

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def _note(self, number: int, _frame: object) -> None:
        if self.signal_name is None:
            self.signal_name = signal.Signals(number).name
