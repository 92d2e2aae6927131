"""The lines proposer: a long-lived program that is sent asks and answers them in any order, one JSON object a line.

to it    {"ask", "base", "round", "seed", "train_py", "brief", "trials": [{"candidate", "base", "val_bpb",
          "failure", "proposer", "pending"}]}
from it  {"ask", "train_py": "..."} or {"ask", "constants": {NAME: value}} or {"ask", "patch": "..."}, with "title",
         "hypothesis", "theme", "parents" as it likes; or {"ask", "no_idea": "why", "exhausted": true for good}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from scheduler.domain.errors import CandidateRejected, ProposerProblem
from scheduler.domain.search import Answer, Ask, NoIdea, ProposalFailure, Proposed, Proposer
from scheduler.git.commits import apply_patch
from scheduler.policy.constants import Constant, rewrite_constants
from scheduler.policy.source import normalised
from scheduler.proposers.process import (
    EndKind,
    LineProcess,
    LineTooLong,
    ProcessEnd,
    ensure_runnable,
    last_line,
    read_tail,
)
from scheduler.proposers.registry import Options, ProposerSetup, describe_change

OPTIONS = ("command", "limit_s", "capacity", "retries")
LIMIT_S = 600.0
MAX_LINE_BYTES = 1 << 20  # a train.py at its limit, every character escaped
_QUOTED = 120


class BadLine(Exception):
    """A line that is no answer to anything: whoever wrote it is not to be trusted with the next one."""


def make(setup: ProposerSetup) -> Proposer:
    """Raises UsageProblem for the options."""
    options = Options(setup, OPTIONS)
    command = options.text("command")
    if not command:
        hint = f"give --option {options.name}.command='…', a program that answers JSON lines"
        raise options.problem("wants a command", hint)
    ensure_runnable(command, options.name)
    return LinesProposer(
        setup,
        command,
        limit_s=options.seconds("limit_s", LIMIT_S),
        capacity=options.whole("capacity", 1, 1, 1000),
        retries=options.whole("retries", 3, 0, 1000),
    )


class LinesProposer:
    """Starts the program at the first ask, and again when it ended, wrote nonsense, or was too slow.

    One that ends well after a good answer has not failed: whatever was asked meanwhile goes to the next. After more
    than `retries` ends without any good answer it is not started again.
    """

    def __init__(self, setup: ProposerSetup, command: str, *, limit_s: float, capacity: int, retries: int) -> None:
        self.name, self.capacity = setup.name, capacity
        self._setup, self._command, self._limit_s, self._retries = setup, command, limit_s, retries
        self._log = setup.folder / f"{setup.name}.log"
        self._process: LineProcess | None = None
        self._open: dict[str, tuple[Ask, float]] = {}  # with the time until which it may be answered
        self._late: set[str] = set()  # asks it was too slow for: their late answers are no nonsense
        self._answers: list[Answer] = []
        self._bad_ends = 0
        self._has_served = False  # since it was started
        self._why = ""

    def ask(self, ask: Ask) -> None:
        self._listen()  # it may have ended since
        if self._process is None:
            self._process = self._start()
        self._open[ask.id] = ask, self._setup.clock() + self._limit_s
        self._process.send(encode_ask(ask))

    def poll(self) -> tuple[Answer, ...]:
        self._listen()
        answers, self._answers = tuple(self._answers), []
        return answers

    def close(self) -> None:
        self._open.clear()
        self._answers.clear()
        self._end_process()

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
        end = self._process.poll()  # asked first: what it wrote before its end is then all there
        try:
            for line in self._process.lines():
                self._take(line)
        except BadLine as problem:
            self._end_badly(ProposalFailure.MALFORMED, str(problem))
        except LineTooLong as problem:
            reason = f"it wrote a line of more than {MAX_LINE_BYTES:,} bytes: {quote(problem.start)}"
            self._end_badly(ProposalFailure.MALFORMED, reason)
        else:
            if end == ProcessEnd(EndKind.EXIT, 0) and self._has_served:
                self._restart()
            elif end is not None:
                self._end_badly(ProposalFailure.CRASHED, self._describe(end))
            else:
                self._check_time()

    def _take(self, line: bytes) -> None:
        """Raises BadLine."""
        ask_id, values = read_line(line)
        if ask_id in self._late:
            return
        if ask_id not in self._open:
            raise BadLine(f"it answered an ask that is not open: {quote(line)}")
        answer = read_answer(self._open.pop(ask_id)[0], values)
        self._answers.append(answer)
        if not (isinstance(answer, NoIdea) and answer.trouble is ProposalFailure.MALFORMED):
            self._bad_ends, self._has_served = 0, True

    def _check_time(self) -> None:
        now = self._setup.clock()
        for ask_id in [one for one, (_, until) in self._open.items() if now > until]:
            del self._open[ask_id]
            self._late.add(ask_id)
            reason = f"it was still silent after {self._limit_s:g} s"
            self._answers.append(NoIdea(ask_id, ProposalFailure.TIMED_OUT, reason, read_tail(self._log)))
        if self._late and not self._open:  # no answer is waited for, and it hangs or lags behind
            self._end_badly(ProposalFailure.TIMED_OUT, f"it was silent for {self._limit_s:g} s")

    def _restart(self) -> None:
        """It ended well: what it did not get to goes to a new one, its time counted from the ask."""
        self._end_process()
        if not self._open:
            return
        try:
            self._process = self._start()
        except ProposerProblem as problem:
            self._end_badly(ProposalFailure.CRASHED, problem.message)
            return
        for ask, _ in self._open.values():
            self._process.send(encode_ask(ask))

    def _end_badly(self, trouble: ProposalFailure, reason: str) -> None:
        if not self._has_served:
            self._bad_ends, self._why = self._bad_ends + 1, reason
        self._end_process()
        log = read_tail(self._log)
        self._answers += [NoIdea(ask_id, trouble, reason, log) for ask_id in self._open]
        self._open.clear()

    def _describe(self, end: ProcessEnd) -> str:
        if end.how is not EndKind.EXIT:
            return end.problem or "it was stopped"
        printed = last_line(read_tail(self._log))
        return f"it ended with exit code {end.code}{f': {printed}' if printed else ''}"

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


def encode_ask(ask: Ask) -> bytes:
    """One line, ended."""
    trials = [
        {
            "candidate": trial.candidate_id,
            "base": trial.base_id,
            "val_bpb": trial.val_bpb,
            "failure": trial.failure,
            "proposer": trial.proposer,
            "pending": trial.pending,
        }
        for trial in ask.trials
    ]
    line = {
        "ask": ask.id,
        "base": ask.base_id,
        "round": ask.round,
        "seed": ask.seed,
        "train_py": ask.train_py.decode("utf-8", "replace"),
        "brief": ask.brief,
        "trials": trials,
    }
    return json.dumps(line).encode() + b"\n"


def read_line(line: bytes) -> tuple[str, Mapping[str, object]]:
    """The ask's id and the answer. Raises BadLine."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine(f"it wrote a line that is not JSON: {quote(line)}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("ask"), str):
        raise BadLine(f'it wrote a line without "ask": {quote(line)}')
    return answer["ask"], answer


def read_answer(ask: Ask, answer: Mapping[str, object]) -> Proposed | NoIdea:
    """What a line means for its ask."""
    if "no_idea" in answer:
        trouble = ProposalFailure.EXHAUSTED if answer.get("exhausted") is True else ProposalFailure.UNCHANGED
        return NoIdea(ask.id, trouble, _string(answer, "no_idea") or "it has no idea")
    try:
        data = _source(ask, answer)
    except BadLine as problem:
        return NoIdea(ask.id, ProposalFailure.MALFORMED, str(problem))
    except CandidateRejected as problem:
        return NoIdea(ask.id, ProposalFailure.REFUSED, problem.message)
    if data == ask.train_py:
        return NoIdea(ask.id, ProposalFailure.UNCHANGED, "it left train.py as it was")
    title = _string(answer, "title") or describe_change(ask.train_py, data)
    parents = answer.get("parents")
    texts = tuple(one for one in parents if isinstance(one, str)) if isinstance(parents, list) else ()
    return Proposed(ask.id, data, title, _string(answer, "hypothesis"), _string(answer, "theme"), texts)


def quote(line: bytes) -> str:
    """The beginning of a line, printable."""
    text = "".join(c if c.isprintable() else "?" for c in line[: 4 * _QUOTED].decode("utf-8", "replace"))
    return repr(text[:_QUOTED]) + (" …" if len(text) > _QUOTED else "")


def _source(ask: Ask, answer: Mapping[str, object]) -> bytes:
    """Raises BadLine, CandidateRejected."""
    given = {name: answer[name] for name in ("train_py", "constants", "patch") if answer.get(name) is not None}
    match given:
        case {"train_py": str(source), **others} if not others:
            return normalised(source.encode("utf-8", "surrogatepass"))
        case {"constants": dict(constants), **others} if not others:
            values = {name: _constant(name, value) for name, value in constants.items()}
            return rewrite_constants(ask.train_py.decode("utf-8", "replace"), values).encode()
        case {"patch": str(patch), **others} if not others:
            return apply_patch(ask.train_py, normalised(patch.encode("utf-8", "surrogatepass")))
    raise BadLine('an answer has one of "train_py" and "patch" as text, "constants" as an object, or "no_idea"')


def _constant(name: str, value: object) -> Constant:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list):
        return tuple(_constant(name, one) for one in value)
    raise BadLine(f"the constant {quote(name.encode())} is no number, text or list")


def _string(answer: Mapping[str, object], name: str) -> str:
    value = answer.get(name)
    return value.strip() if isinstance(value, str) else ""
