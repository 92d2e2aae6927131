"""What the candidate may send when, and what the judge does about it: the state machine of one run.

HELLO, WARMING, START (rows handed out, clock on), reports, EVAL (clock off), then the evaluation's messages from ROOM
to END; every breach becomes a verdict. Deadlines, exits and logs: harness.judge.monitor.
"""

from __future__ import annotations

import contextlib
import os

import numpy as np

from harness.judge.arguments import JudgeArgs
from harness.judge.clock import BudgetClock, SpeedRange
from harness.judge.data import JudgeData
from harness.judge.evaluation import Evaluation, Transports
from harness.judge.evaluation_cost import EvaluationCost
from harness.judge.evaluation_plan import forward_rows_of, plan_evaluation
from harness.judge.exchange_host import ExchangeUnavailable, NoRoom
from harness.judge.launch import CandidateProcess
from harness.judge.report import JudgeVerdict, Telemetry
from harness.judge.serving import ProbedServing
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
from harness.rows import first_training_row
from harness.scoring import ImpossibleLikelihood, NonFinite, Score
from harness.work_page import WorkPage

_MESSAGES_PER_TURN = 64  # a flood must not keep the judge from its deadlines


class ProtocolSession:
    """Judge and candidate over one socket. `verdict` is set by the first thing that decides the run."""

    def __init__(
        self, args: JudgeArgs, data: JudgeData, candidate: CandidateProcess, clock: BudgetClock, transports: Transports
    ) -> None:
        self._contract, self._expect_attention, self._seed = args.contract, args.expect_attention, args.seed
        self._data, self._clock, self._transports = data, clock, transports
        self._page = WorkPage() if clock.in_work else None
        self._evaluation: Evaluation | None = None
        self._cost: EvaluationCost | None = None
        self.serving: ProbedServing | None = None
        self.evaluation_charged_s: float | None = None
        self.socket = candidate.socket
        self.socket.setblocking(False)
        self.timeline = candidate.timeline
        self.telemetry = Telemetry()
        self.verdict: JudgeVerdict | None = None
        self.score: Score | None = None
        self.used_s: float | None = None
        self.cpu_s: float | None = None
        self.speeds: SpeedRange | None = None  # of the core while it trained
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
            self.cpu_s, self.speeds = self._clock.cpu_s(), self._clock.speeds()

    def follow_speed(self) -> None:
        """Under a work clock: see how fast the core is, and let the candidate know what its seconds count."""
        if self._page is not None and self.score is None and (done := self._clock.look()) is not None:
            self._page.write(done)

    def close(self) -> None:
        if self._page is not None:
            self._page.close()
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
        rows = self._data.cache.train_rows
        used_s = self._clock.begin(self._contract.limits.free_startup_s)
        message = Message(Op.ROWS, first_training_row(self._seed, rows), rows, used_s)
        fds: tuple[int, ...] = (self._data.train_rows_fd, self._data.train_epochs_fd)
        if self._page is not None:
            self._page.write(self._clock.done())
            fds = (*fds, self._page.fd)
        self._send(message, fds)

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
        if (verdict := self._over_budget("training")) is not None:
            self.verdict = verdict
            return
        self.timeline.enter("evaluate")
        self._begin_evaluation(batch_size)

    def _begin_evaluation(self, batch_size: int) -> None:
        contract, data, budget = self._contract, self._data, self._contract.budget
        random = np.random.default_rng(int.from_bytes(os.urandom(16), "little"))
        forward_rows = forward_rows_of(batch_size, len(data.val))
        slice_rows = min(forward_rows, self._transports.slice_rows)
        plan = plan_evaluation(data.val, data.holdout, forward_rows, random)
        self.serving = ProbedServing(plan, slice_rows, data.token_bytes, random)
        self._cost = EvaluationCost(self._clock.used_s, budget.seconds, wall=budget.clock == "wall")
        layout = Layout(forward_rows, slice_rows, contract.sequence_length, contract.vocab_size)
        openers = iter(self._transports.openers)
        self._evaluation = Evaluation(self.serving, layout, openers, self._send, self._cost)

    def _over_budget(self, what: str) -> JudgeVerdict | None:
        used_s, budget = self.used_s or 0.0, self._contract.budget
        if self._clock.allows(used_s):
            return None
        return JudgeVerdict(
            "invalid: over-budget", f"{what} used {used_s:.2f} s of {budget.seconds:g} s ({budget.clock} clock)"
        )

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
        if self._evaluation.over:
            self._on_end()

    def _on_end(self) -> None:
        assert self.serving is not None and self._cost is not None
        self.score = self.serving.score
        self.timeline.enter("teardown")
        self.evaluation_charged_s = self._cost.charged_s()
        self.used_s = (self.used_s or 0.0) + self.evaluation_charged_s
        status, reason = self.serving.verdict
        if status != "ok":
            self.verdict = JudgeVerdict(status, reason)
        elif self.evaluation_charged_s:
            what = f"training, and {self.evaluation_charged_s:.2f} s in the evaluation that no frozen model needs,"
            self.verdict = self._over_budget(what)
