"""Watching one run: a single-threaded loop over socket, log, exit, signals and deadlines, until a verdict falls.

Covers: what ends a run and in which order of precedence. Not covered: cleaning up afterwards (harness.judge.court).
The loop sleeps between events; it wakes a few times a second to read the clock, which costs microseconds.
"""

from __future__ import annotations

import selectors
import time

from harness.contract import Contract
from harness.judge.clock import BudgetClock
from harness.judge.conversation import Conversation
from harness.judge.interrupt import Interrupt
from harness.judge.launch import Candidate
from harness.judge.logpump import LogPump
from harness.judge.progress import Progress
from harness.judge.verdict import Verdict
from harness.processes import reap_all

_TICK_S = 0.25
_LAST_TURNS = 8  # more than a socket holds unread; a child that keeps the socket open is not waited for


class Watch:
    """One candidate under observation."""

    def __init__(
        self,
        contract: Contract,
        candidate: Candidate,
        conversation: Conversation,
        clock: BudgetClock,
        log: LogPump,
        progress: Progress,
        interrupt: Interrupt,
    ) -> None:
        self._contract = contract
        self._candidate = candidate
        self._conversation = conversation
        self._clock = clock
        self._log = log
        self._progress = progress
        self._interrupt = interrupt
        self._selector = selectors.DefaultSelector()
        self._look_again_at = 0.0

    def until_verdict(self) -> Verdict | None:
        """Watch until something decides the run; None when the candidate ended by itself before it was scored.

        After the score the candidate may finish in peace for the contract's teardown time.
        """
        with self._selector:
            self._register()
            while True:
                for key, _ in self._selector.select(_TICK_S):
                    key.data()
                if self._candidate.ended is not None:
                    return self._after_exit()
                if (verdict := self._conversation.verdict or self._look_around()) is not None:
                    return verdict

    def _look_around(self) -> Verdict | None:
        """What no descriptor tells: signals, orphans, deadlines. A few times a second, however busy the log is."""
        if (now := time.monotonic()) < self._look_again_at:
            return None
        self._look_again_at = now + _TICK_S
        self._reap()
        self._show()
        if (signal_name := self._interrupt.signal_name()) is not None:
            return Verdict("infra: interrupted", f"the judge was stopped by {signal_name}")
        return self._overdue()

    def _register(self) -> None:
        self._selector.register(self._conversation.socket, selectors.EVENT_READ, self._listen)
        self._selector.register(self._log.fd, selectors.EVENT_READ, self._pump)
        self._selector.register(self._candidate.pidfd, selectors.EVENT_READ, self._reap)

    def _listen(self) -> None:
        if not self._conversation.listen():
            self._selector.unregister(self._conversation.socket)

    def _pump(self) -> None:
        if not self._log.pump():
            self._selector.unregister(self._log.fd)

    def _reap(self) -> None:
        reap_all(self._candidate.on_reaped)

    def _show(self) -> None:
        conversation = self._conversation
        elapsed_s = conversation.used_s if conversation.used_s is not None else self._clock.used_s()
        if conversation.timeline.phase == "train":
            conversation.telemetry.mark_loss(elapsed_s / self._contract.budget.seconds)
        self._progress.show(conversation.timeline.phase, elapsed_s, conversation.telemetry)

    def _overdue(self) -> Verdict | None:
        timeline, limits = self._conversation.timeline, self._contract.limits
        match timeline.phase:
            case "train":
                why = self._clock.overrun()
                return None if why is None else Verdict("timeout: train", f"training {why}")
            case "evaluate" if timeline.in_phase_s() > limits.evaluation_s:
                return Verdict("timeout: eval", f"the evaluation was not over after {limits.evaluation_s:g} s")
            case "teardown" if timeline.in_phase_s() > limits.teardown_s:
                return Verdict("ok", f"train.py did not end within {limits.teardown_s:g} s of its score and was killed")
            case "import" | "context" | "compile" if timeline.since_spawn_s() > limits.startup_s:
                return Verdict("timeout: startup", f"no training batch was taken within {limits.startup_s:g} s")
        return None

    def _after_exit(self) -> Verdict | None:
        """What was said just before the end still counts: a second EVAL, junk, a closing word."""
        for _ in range(_LAST_TURNS):
            if not self._conversation.listen():
                break
        if self._conversation.verdict is not None or self._conversation.score is None:
            return self._conversation.verdict
        code = self._candidate.exit_code
        return Verdict("ok", "" if code == 0 else f"train.py ended with exit code {code} after its score")
