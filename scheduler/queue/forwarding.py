"""Signals of a command that runs its queue in a child: passed on to that, which is in a process group of its own."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

from scheduler.queue.runtime import LEAVE

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ForwardedSignals:
    """Each signal arrives in the child once; the one after LEAVE of them kills it. `count`: how many came."""

    def __init__(self) -> None:
        self.child: int | None = None
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> ForwardedSignals:
        for number in FORWARDED:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._before[number] = signal.signal(number, self._forward)
        self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._pause)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._send(signal.SIGKILL if self.count > LEAVE else number)

    def _pause(self, number: int, frame: FrameType | None) -> None:
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        if self.child is not None:
            with suppress(ProcessLookupError):
                os.kill(self.child, number)
