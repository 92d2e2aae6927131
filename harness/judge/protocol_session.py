"""What the candidate may send when, and what the judge does about it: the state machine of one run.

HELLO, WARMING, START (rows handed out, clock on), reports, EVAL (clock off), then the evaluation's messages from ROOM
to END; every breach becomes a verdict. Deadlines, exits and logs: harness.judge.monitor.
"""

from __future__ import annotations

import contextlib

from harness.judge.arguments import JudgeArgs
from harness.judge.clock import BudgetClock
from harness.judge.data import JudgeData
from harness.judge.evaluation import Evaluation, Transports
from harness.judge.exchange_host import ExchangeUnavailable, NoRoom
from harness.judge.launch import CandidateProcess
from harness.judge.report import JudgeVerdict, Telemetry
from harness.protocol import (
    ATTENTION_NAMES,
    BATCH_SIZE_LIMIT,
    Closed,
    Layout,
    Message,
    Op,
    ProtocolError,
    receive,
    send,
)
from harness.scoring import ImpossibleLikelihood, NonFinite, Score

_MESSAGES_PER_TURN = 64  # a flood must not keep the judge from its deadlines


class ProtocolSession:
    """Judge and candidate over one socket. `verdict` is set by the first thing that decides the run."""

    def __init__(
        self, args: JudgeArgs, data: JudgeData, candidate: CandidateProcess, clock: BudgetClock, transports: Transports
    ) -> None:
        self._contract, self._expect_attention = args.contract, args.expect_attention
        self._data, self._clock, self._transports = data, clock, transports
        self._evaluation: Evaluation | None = None
        self.socket = candidate.socket
        self.socket.setblocking(False)
        self.timeline = candidate.timeline
        self.telemetry = Telemetry()
        self.verdict: JudgeVerdict | None = None
        self.score: Score | None = None
        self.used_s: float | None = None
        self.train_wall_s: float | None = None

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
                self.verdict = JudgeVerdict("invalid: protocol", f"train.py broke the protocol: {error}")
        return True

    @property
    def exchange(self) -> str | None:
        """The transport of logits, once the candidate has opened it: one of harness.protocol.EXCHANGE_NAMES."""
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
        match message.op:
            case Op.HELLO:
                self._on_hello()
            case Op.WARMING:
                self._on_warming()
            case Op.START:
                self._on_start()
            case Op.STEP:
                self.telemetry.step, self.telemetry.loss = message.count, message.real
                self.telemetry.tokens = max(0, message.integer)
            case Op.ATTENTION:
                self._on_attention(message.count)
            case Op.MEMORY:
                self.telemetry.peak_memory_mb = message.real
            case Op.MFU:
                self.telemetry.mfu = message.real
            case Op.EVAL:
                self._on_eval(message.integer)
            case Op.ROOM | Op.READY | Op.DONE:
                self._on_evaluation_message(message)
            case _:
                raise ProtocolError(f"{message.op.name} is a message of the judge's")

    def _send(self, message: Message, fds: tuple[int, ...]) -> None:
        with contextlib.suppress(Closed):  # it has ended; what it sent before still counts
            send(self.socket, message, fds)

    def _on_hello(self) -> None:
        if self.timeline.phase != "import":
            raise ProtocolError("HELLO a second time")
        self.timeline.enter("context")

    def _on_warming(self) -> None:
        if self._clock.begun:
            raise ProtocolError("WARMING after START")
        if self.timeline.phase == "context":
            self.timeline.enter("compile")

    def _on_start(self) -> None:
        if self._clock.begun or self._evaluation is not None:
            raise ProtocolError("START a second time")
        self.timeline.enter("train")
        used_s = self._clock.begin(self._contract.limits.free_startup_s)
        message = Message(Op.ROWS, integer=self._data.cache.train_rows, real=used_s)
        self._send(message, (self._data.train_rows_fd, self._data.train_epochs_fd))

    def _on_attention(self, number: int) -> None:
        if number >= len(ATTENTION_NAMES):
            raise ProtocolError(f"attention kernel number {number}")
        used = ATTENTION_NAMES[number]
        self.telemetry.attention = used
        if self._expect_attention not in (None, used):
            reason = f"attention by {used} where {self._expect_attention} was expected: this device would not compare"
            self.verdict = JudgeVerdict("infra: attention", reason)

    def _on_eval(self, batch_size: int) -> None:
        if self._evaluation is not None:
            raise ProtocolError("a second evaluation; a run has one")
        if not 0 < batch_size < BATCH_SIZE_LIMIT:
            raise ProtocolError(f"an evaluation with batch size {batch_size}")
        if not self._clock.begun:
            reason = "evaluate_bpb was called before any training batch was taken"
            self.verdict = JudgeVerdict("invalid: no-start", reason)
            return
        self.stop_clock()
        if self._clock.is_over():
            budget = self._contract.budget
            used = f"used {self.used_s:.2f} s of {budget.seconds:g} s"
            reason = f"training {used} ({budget.clock} clock)"
            self.verdict = JudgeVerdict("invalid: over-budget", reason)
            return
        self.timeline.enter("evaluate")
        rows = self._data.val
        forward_rows = min(batch_size, len(rows))
        slice_rows = min(forward_rows, self._transports.slice_rows)
        layout = Layout(forward_rows, slice_rows, self._contract.sequence_length, self._contract.vocab_size)
        self._evaluation = Evaluation(rows, layout, iter(self._transports.openers), self._send)

    def _on_evaluation_message(self, message: Message) -> None:
        if self._evaluation is None or self.score is not None:
            raise ProtocolError(f"{message.op.name} outside an evaluation")
        try:
            self._evaluation.on_message(message)
        except NonFinite as error:
            self.verdict = JudgeVerdict("invalid: non-finite", f"the evaluation has no finite score: {error}")
        except NoRoom as error:
            self.verdict = JudgeVerdict("oom", str(error))
        except ExchangeUnavailable as error:
            self.verdict = JudgeVerdict("infra: exchange", f"no way to pass logits: {error}")
        except ImpossibleLikelihood as error:
            self.verdict = JudgeVerdict("infra: scoring", str(error))
        if self._evaluation.score is not None:
            self.score = self._evaluation.score
            self.timeline.enter("teardown")
