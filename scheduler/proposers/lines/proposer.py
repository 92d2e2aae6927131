"""The lines proposer: a long-lived program that is sent asks and answers them in any order, in JSON lines.

It is started at the first ask and again when it is needed after it ended, was caught writing nonsense, or was too slow.
One that leaves well after a good answer is no trouble, whatever was asked meanwhile goes to the next; after more than
`retries` ends without any good answer it is not started again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.errors import ProposerProblem
from scheduler.domain.proposal import Answer, Ask, NoIdea, Proposer, Trouble
from scheduler.proposers.child import SHOWN_BYTES, Ending, How, last_line, tail
from scheduler.proposers.lines.process import LineProcess, Overlong
from scheduler.proposers.lines.wire import MAX_LINE_BYTES, BadLine, quote, read_answer, read_line, spell_ask
from scheduler.proposers.setup import Options, ProposerSetup

OPTIONS = ("command", "limit_s", "capacity", "retries")
LIMIT_S = 600.0


@dataclass(frozen=True)
class _Open:
    ask: Ask
    until: float


def make(setup: ProposerSetup) -> Proposer:
    """Raises UsageProblem for the options."""
    options = Options(setup, OPTIONS)
    command = options.text("command")
    if not command:
        raise options.problem("wants a command", "give command='...', a program that answers JSON lines")
    return LinesProposer(
        setup,
        command,
        limit_s=options.seconds("limit_s", LIMIT_S),
        capacity=options.whole("capacity", 1, 1, 1000),
        retries=options.whole("retries", 3, 0, 1000),
    )


class LinesProposer:
    """See the module. Ids of asks it was too slow for are remembered: their late answers are no nonsense."""

    def __init__(self, setup: ProposerSetup, command: str, *, limit_s: float, capacity: int, retries: int) -> None:
        self.name, self.capacity = setup.name, capacity
        self._setup, self._command, self._limit_s, self._retries = setup, command, limit_s, retries
        self._process: LineProcess | None = None
        self._open: dict[str, _Open] = {}
        self._late: set[str] = set()
        self._answers: list[Answer] = []
        self._bad_ends = 0
        self._has_served = False  # since it was started
        self._why = ""

    def ask(self, ask: Ask) -> None:
        if self._process is not None:
            self._listen()  # it may have ended since
        if self._process is None:
            self._process = self._start()
        self._open[ask.id] = _Open(ask, self._setup.clock() + self._limit_s)
        self._process.send(spell_ask(ask))

    def poll(self) -> tuple[Answer, ...]:
        self._listen()
        answers, self._answers = tuple(self._answers), []
        return answers

    def close(self) -> None:
        self._open.clear()
        self._answers.clear()
        self._drop()

    def _start(self) -> LineProcess:
        if self._bad_ends > self._retries:
            hint = f"see {self._log}, and try the command by hand"
            raise ProposerProblem(f"{self.name} ended badly {self._bad_ends} times in a row: {self._why}", hint)
        self._late.clear()
        self._has_served = False
        try:
            self._setup.folder.mkdir(parents=True, exist_ok=True)
            folder, environment = self._setup.repo_root, {**os.environ, "ARSCHED_SEED": str(self._setup.seed)}
            return LineProcess(
                self._command, log=self._log, folder=folder, environment=environment, limit=MAX_LINE_BYTES
            )
        except OSError as problem:
            raise ProposerProblem(f"{self.name} cannot be started: {problem}", "is the disk full?") from None

    def _listen(self) -> None:
        """Take what it has written, then see whether it still lives and keeps time."""
        if self._process is None:
            return
        ending = self._process.ended()  # asked first: what it wrote before its end is then all there
        try:
            for line in self._process.lines():
                self._take(line)
        except BadLine as problem:
            self._end_badly(Trouble.MALFORMED, str(problem))
        except Overlong as problem:
            reason = f"it wrote a line of more than {MAX_LINE_BYTES:,} bytes: {quote(problem.start)}"
            self._end_badly(Trouble.MALFORMED, reason)
        else:
            if ending == Ending(How.EXIT, 0) and self._has_served:
                self._go_on()
            elif ending is not None:
                self._end_badly(Trouble.CRASHED, self._describe(ending))
            else:
                self._check_time()

    def _take(self, line: bytes) -> None:
        """Raises BadLine."""
        ask_id, said = read_line(line)
        if ask_id in self._late:
            return
        if ask_id not in self._open:
            raise BadLine(f"it answered an ask that is not open: {quote(line)}")
        answer = read_answer(self._open.pop(ask_id).ask, said)
        self._answers.append(answer)
        if not (isinstance(answer, NoIdea) and answer.trouble is Trouble.MALFORMED):
            self._bad_ends, self._has_served = 0, True

    def _check_time(self) -> None:
        now = self._setup.clock()
        for ask_id in [one for one, waiting in self._open.items() if now > waiting.until]:
            del self._open[ask_id]
            self._late.add(ask_id)
            reason = f"it was still silent after {self._limit_s:g} s"
            self._answers.append(NoIdea(ask_id, Trouble.TIMED_OUT, reason, self._printed()))
        if self._late and not self._open:  # nobody waits for it, and it hangs or lags behind
            self._end_badly(Trouble.TIMED_OUT, f"it was silent for {self._limit_s:g} s")

    def _go_on(self) -> None:
        """It left well: what it did not get to goes to a new one, its time counted from the ask."""
        self._drop()
        if not self._open:
            return
        try:
            self._process = self._start()
        except ProposerProblem as problem:
            self._end_badly(Trouble.CRASHED, problem.message)
            return
        for waiting in self._open.values():
            self._process.send(spell_ask(waiting.ask))

    def _end_badly(self, trouble: Trouble, reason: str) -> None:
        if not self._has_served:
            self._bad_ends, self._why = self._bad_ends + 1, reason
        self._drop()
        log = self._printed()
        self._answers += [NoIdea(ask_id, trouble, reason, log) for ask_id in self._open]
        self._open.clear()

    def _describe(self, ending: Ending) -> str:
        said = f": {last_line(self._printed())}" if last_line(self._printed()) else ""
        if ending.how is How.EXIT:
            return f"it ended with exit code {ending.code}{said}"
        return ending.problem or "it was stopped"

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _printed(self) -> str:
        return tail(self._log, SHOWN_BYTES)

    @property
    def _log(self) -> Path:
        return self._setup.folder / f"{self.name}.log"
