"""What is known of a run so far, and its Result once the verdict has fallen.

Covers: collecting facts from the steps of a run; unknown ones stay None. Not covered: the file (harness.judge.result).
"""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime

from harness.cache import Cache
from harness.containment import Containment
from harness.judge.clock import PHASES
from harness.judge.environment import visible_devices
from harness.judge.facts import cpu_device, gpu_device, versions
from harness.judge.hearing import Hearing
from harness.judge.order import Order
from harness.judge.progress import Telemetry
from harness.judge.result import LOG_NAME, BudgetUse, Digests, LogFile, Result, TrainingReport
from harness.judge.verdict import Verdict
from harness.scoring import Score


class Record:
    """Facts of one run; `take` adds what the ended candidate left."""

    def __init__(self, order: Order, containment: Containment) -> None:
        self._order = order
        self.containment: Containment = containment
        self._begun_at = time.monotonic()
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.train_py = order.train.read_bytes()
        self.cache: Cache | None = None
        self.seeded = False  # with kept compile caches
        self.score: Score | None = None
        self._telemetry = Telemetry()
        self._exchange: str | None = None
        self._phases: dict[str, float | None] = dict.fromkeys(PHASES)
        self._used_s: float | None = None
        self._train_wall_s: float | None = None
        self._peak_memory_mb: float | None = None
        self._exit_code: int | None = None
        self._log_truncated = False

    def take(self, hearing: Hearing) -> None:
        """Note what the run showed; call once everything of it is dead."""
        conversation, candidate = hearing.conversation, hearing.candidate
        self._phases |= {phase: round(spent_s, 4) for phase, spent_s in conversation.timeline.spent_s.items()}
        self.score, self._telemetry = conversation.score, conversation.telemetry
        self._exchange = conversation.exchange
        self._used_s, self._train_wall_s = conversation.used_s, conversation.train_wall_s
        self._exit_code, self._log_truncated = candidate.exit_code, hearing.log.truncated
        self._peak_memory_mb = self._telemetry.peak_memory_mb
        if self._peak_memory_mb is None and candidate.ended is not None:
            self._peak_memory_mb = round(candidate.ended.peak_memory_mb, 1)

    def result(self, verdict: Verdict) -> Result:
        """The result; a score is shown only with a verdict that carries one."""
        order, score = self._order, self.score if verdict.scored else None
        return Result(
            status=verdict.status,
            reason=verdict.reason,
            val_bpb=None if score is None else score.val_bpb,
            val_bpb_upstream=None if score is None else score.val_bpb_upstream,
            nats_per_token=None if score is None else score.nats_per_token,
            phases_s=self._phases,
            wall_s=round(time.monotonic() - self._begun_at, 3),
            budget=self._budget_use(),
            training=self._training(),
            peak_memory_mb=self._peak_memory_mb,
            seed=order.seed,
            digests=self._digests(),
            attention=self._telemetry.attention,
            exchange=self._exchange,
            device=cpu_device() if order.device is None else gpu_device(visible_devices(order)),
            versions=versions(),
            compile_cache="seeded" if self.seeded else "cold",
            containment=self.containment,
            sandbox="none",
            probes={},
            log=LogFile(LOG_NAME, self._log_truncated),
            exit_code=self._exit_code,
            started_at=self._started_at,
        )

    def _budget_use(self) -> BudgetUse:
        budget = self._order.contract.budget
        return BudgetUse(budget.clock, budget.seconds, self._used_s, self._train_wall_s)

    def _training(self) -> TrainingReport:
        told = self._telemetry
        rate = told.tokens / self._train_wall_s if told.tokens and self._train_wall_s else None
        mfu = told.mfu if told.mfu is not None and 0 <= told.mfu <= 1 else None
        return TrainingReport(told.step, told.tokens, rate, told.loss, tuple(told.loss_at), mfu)

    def _digests(self) -> Digests:
        cache_digest = None if self.cache is None else self.cache.digest
        return Digests(self._order.contract.digest, cache_digest, hashlib.sha256(self.train_py).hexdigest())
