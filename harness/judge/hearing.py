"""A launched candidate and everything the judge holds around it: clock, conversation, log, progress, watch.

Covers: putting them together, watching, and the end, after which nothing of the candidate is alive. Not covered: what
is needed before a launch and what becomes of the verdict (harness.judge.court).
"""

from __future__ import annotations

from typing import Self

from harness.cache import Cache
from harness.judge.clock import BudgetClock
from harness.judge.conversation import Conversation
from harness.judge.facts import kernel_memory_kills
from harness.judge.interrupt import Interrupt
from harness.judge.launch import Candidate
from harness.judge.logpump import LogPump
from harness.judge.offers import offers_for
from harness.judge.order import Order
from harness.judge.output import Output
from harness.judge.progress import Progress
from harness.judge.verdict import Verdict, of_exit
from harness.judge.watch import Watch
from harness.scoring import TokenBytes


class Hearing:
    """One run in progress, as a context: on leaving it the candidate and all it spawned are dead, the log is whole."""

    def __init__(
        self,
        order: Order,
        cache: Cache,
        candidate: Candidate,
        output: Output,
        interrupt: Interrupt,
        *,
        own_namespace: bool,
    ) -> None:
        self._own_namespace = own_namespace
        self._memory_kills_before = kernel_memory_kills()
        self.candidate = candidate
        self.log = LogPump(candidate.log_fd, output.log_fd, int(order.contract.limits.log_mb * 2**20))
        clock = BudgetClock(order.contract.budget, candidate.tree)
        offers = offers_for(order, TokenBytes.load(cache))
        self.conversation = Conversation(order, cache, candidate, clock, offers)
        self._progress = Progress(output, order.contract.budget.seconds)
        self._watch = Watch(order.contract, candidate, self.conversation, clock, self.log, self._progress, interrupt)

    def watch(self) -> Verdict:
        """Watch until a verdict falls."""
        verdict = self._watch.until_verdict()
        self.conversation.stop_clock()
        if verdict is not None:
            return verdict
        killed_for_memory = kernel_memory_kills() > self._memory_kills_before
        self.log.pump()
        exit_code = self.candidate.exit_code or 0
        return of_exit(exit_code, self.log.tail_text(), kernel_killed_for_memory=killed_for_memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.candidate.end(own_namespace=self._own_namespace)
        self.conversation.timeline.close()
        self._progress.end_line()
        self.log.finish()
        self.conversation.close()
