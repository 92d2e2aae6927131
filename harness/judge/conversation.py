"""What the candidate may say when, and what the judge does about it: the state machine of one run.

Covers: HELLO, WARMING, START (rows handed out, clock on), reports, EVAL (clock off), the evaluation's dialogue from
ROOM to END; every breach becomes a verdict. Not covered: deadlines, exits, logs (harness.judge.watch).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from harness.batches import read_rows
from harness.cache import Cache
from harness.exchange import Layout
from harness.judge.clock import BudgetClock
from harness.judge.evaluation import Evaluation
from harness.judge.exchange_host import ExchangeUnavailable, NoRoom
from harness.judge.launch import Candidate
from harness.judge.offers import Offers
from harness.judge.order import Order
from harness.judge.progress import Telemetry
from harness.judge.verdict import Verdict
from harness.protocol import ATTENTION_NAMES, BATCH_SIZE_LIMIT, Closed, Message, Op, ProtocolError, receive, send
from harness.scoring import ImpossibleLikelihood, NonFinite, Score

_MESSAGES_PER_TURN = 64  # a flood must not keep the judge from its deadlines


class Conversation:
    """Judge and candidate over one socket. `verdict` is set by the first thing that decides the run."""

    def __init__(self, order: Order, cache: Cache, candidate: Candidate, clock: BudgetClock, offers: Offers) -> None:
        self._contract = order.contract
        self._expect_attention = order.expect_attention
        self._cache = cache
        self._clock = clock
        self._offers = offers
        self.socket = candidate.socket
        self._evaluation: Evaluation | None = None
        self.timeline = candidate.timeline
        self.telemetry = Telemetry()
        self.verdict: Verdict | None = None
        self.score: Score | None = None
        self.used_s: float | None = None
        self.train_wall_s: float | None = None
        self.socket.setblocking(False)

    def listen(self) -> bool:
        """Take what has arrived; False once the candidate has closed its end."""
        for _ in range(_MESSAGES_PER_TURN):
            if self.verdict is not None:
                return True
            try:
                self._handle(receive(self.socket))
            except BlockingIOError:
                return True
            except Closed:
                return False
            except ProtocolError as error:
                self.verdict = Verdict("invalid: protocol", f"train.py broke the protocol: {error}")
        return True

    @property
    def exchange(self) -> str | None:
        """The way logits pass, once the candidate has opened it: one of harness.exchange.EXCHANGE_NAMES."""
        return None if self._evaluation is None else self._evaluation.exchange

    def stop_clock(self) -> None:
        """Note what the budget clock says, once; at EVAL, or when the run ends before it."""
        if self._clock.begun and self.used_s is None:
            self.used_s, self.train_wall_s = self._clock.used_s(), self._clock.wall_s()

    def close(self) -> None:
        if self._evaluation is not None:
            self._evaluation.close()
        self.socket.close()

    def _handle(self, message: Message) -> None:
        handlers: dict[Op, Callable[[Message], None]] = {
            Op.HELLO: self._on_hello,
            Op.WARMING: self._on_warming,
            Op.START: self._on_start,
            Op.STEP: self._on_step,
            Op.ATTENTION: self._on_attention,
            Op.MEMORY: self._on_memory,
            Op.MFU: self._on_mfu,
            Op.EVAL: self._on_eval,
            Op.ROOM: self._on_evaluation_message,
            Op.READY: self._on_evaluation_message,
            Op.DONE: self._on_evaluation_message,
        }
        handler = handlers.get(message.op)
        if handler is None:
            raise ProtocolError(f"{message.op.name} is the judge's to say")
        handler(message)

    def _tell(self, message: Message, fds: tuple[int, ...]) -> None:
        with contextlib.suppress(Closed):  # it has ended; what it said before still counts
            send(self.socket, message, fds)

    def _on_hello(self, _message: Message) -> None:
        if self.timeline.phase != "import":
            raise ProtocolError("HELLO a second time")
        self.timeline.enter("context")

    def _on_warming(self, _message: Message) -> None:
        if self._clock.begun:
            raise ProtocolError("WARMING after START")
        if self.timeline.phase == "context":
            self.timeline.enter("compile")

    def _on_start(self, _message: Message) -> None:
        if self._clock.begun or self._evaluation is not None:
            raise ProtocolError("START a second time")
        rows = os.open(self._cache.train_rows_path, os.O_RDONLY | os.O_CLOEXEC)
        epochs = os.open(self._cache.train_epochs_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.timeline.enter("train")
            reading = self._clock.begin()
            self._tell(Message(Op.ROWS, integer=self._cache.train_rows, real=reading), (rows, epochs))
        finally:
            os.close(rows)
            os.close(epochs)

    def _on_step(self, message: Message) -> None:
        self.telemetry.step = message.count
        self.telemetry.loss = message.real
        self.telemetry.tokens = max(0, message.integer)

    def _on_memory(self, message: Message) -> None:
        self.telemetry.peak_memory_mb = message.real

    def _on_mfu(self, message: Message) -> None:
        self.telemetry.mfu = message.real

    def _on_attention(self, message: Message) -> None:
        if message.count >= len(ATTENTION_NAMES):
            raise ProtocolError(f"attention kernel number {message.count}")
        used = ATTENTION_NAMES[message.count]
        self.telemetry.attention = used
        if self._expect_attention not in (None, used):
            reason = f"attention by {used} where {self._expect_attention} was expected: this device would not compare"
            self.verdict = Verdict("infra: attention", reason)

    def _on_eval(self, message: Message) -> None:
        if self._evaluation is not None:
            raise ProtocolError("a second evaluation; a run has one")
        if not 0 < message.integer < BATCH_SIZE_LIMIT:
            raise ProtocolError(f"an evaluation with batch size {message.integer}")
        if not self._clock.begun:
            self.verdict = Verdict("invalid: no-start", "evaluate_bpb was called before any training batch was taken")
            return
        self.stop_clock()
        if self._clock.is_over():
            self.verdict = self._over_budget()
            return
        self.timeline.enter("evaluate")
        rows = read_rows(self._cache.val_rows_path, self._contract.sequence_length)
        forward_rows = min(message.integer, len(rows))
        layout = Layout(
            forward_rows,
            min(forward_rows, self._offers.slice_rows),
            self._contract.sequence_length,
            self._contract.vocab_size,
        )
        self._evaluation = Evaluation(rows, layout, iter(self._offers.ways), self._tell)

    def _over_budget(self) -> Verdict:
        budget = self._contract.budget
        used = f"used {self.used_s:.2f} s of {budget.seconds:g} s ({budget.clock} clock, grace {budget.grace_s:g} s)"
        return Verdict("invalid: over-budget", f"training {used}")

    def _on_evaluation_message(self, message: Message) -> None:
        if self._evaluation is None or self.score is not None:
            raise ProtocolError(f"{message.op.name} outside an evaluation")
        try:
            if message.op is Op.ROOM:
                self._evaluation.on_room()
            elif message.op is Op.READY:
                self._evaluation.on_ready(message)
            else:
                self._evaluation.on_done(message)
        except NonFinite as error:
            self.verdict = Verdict("invalid: non-finite", f"the evaluation has no finite score: {error}")
        except NoRoom as error:
            self.verdict = Verdict("oom", str(error))
        except ExchangeUnavailable as error:
            self.verdict = Verdict("infra: exchange", f"no way to pass logits: {error}")
        except ImpossibleLikelihood as error:
            self.verdict = Verdict("infra: scoring", str(error))
        if self._evaluation.score is not None:
            self.score = self._evaluation.score
            self.timeline.enter("teardown")
