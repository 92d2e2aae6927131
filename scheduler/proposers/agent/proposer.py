"""The agent proposer: every ask is one run of a shell command in a worktree of its own, under a keeper.

`poll` moves every ask one step on: a run that ended is read and answered, or tried again where it crashed or took too
long. Only the caller's thread touches git. Judges no source; that is the admission's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from scheduler.domain.errors import GitProblem, ProposerProblem
from scheduler.domain.proposal import Answer, Ask, NoIdea, Proposed, Proposer, Trouble
from scheduler.git import Repo
from scheduler.proposers.agent.commands import PROMPT, command_of
from scheduler.proposers.agent.workplace import NOTES, Workplace, sweep
from scheduler.proposers.child import Child, Ending, How, last_line
from scheduler.proposers.setup import Options, ProposerSetup

OPTIONS = ("command", "preset", "workers", "limit_s", "retries", "keep")
MOST_WORKERS = 8
LIMIT_S = 900.0


@dataclass
class _Try:
    """One run of the command for an ask."""

    ask: Ask
    number: int  # from 1
    workplace: Workplace
    child: Child


def make(setup: ProposerSetup) -> Proposer:
    """Raises UsageProblem for the options; ProposerProblem, GitProblem where it cannot work."""
    options = Options(setup, OPTIONS)
    return AgentProposer(
        setup,
        command_of(options),
        workers=options.whole("workers", min(max(1, setup.slots), MOST_WORKERS), 1, 64),
        limit_s=options.seconds("limit_s", LIMIT_S),
        retries=options.whole("retries", 1, 0, 100),
        keep=options.flag("keep"),
    )


class AgentProposer:
    """See the module. `keep`: worktrees of asks that brought no idea stay for a look."""

    def __init__(
        self, setup: ProposerSetup, command: str, *, workers: int, limit_s: float, retries: int, keep: bool
    ) -> None:
        self.name, self.capacity = setup.name, workers
        self._command, self._limit_s, self._retries, self._keep = command, limit_s, retries, keep
        self._say = setup.say
        self._repo = Repo.open(setup.repo_root)
        self._folder = setup.folder / setup.name
        self._tries: dict[str, _Try] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            sweep(self._repo, self._folder)
        except OSError as problem:
            raise ProposerProblem(f"{self._folder} cannot be used: {problem}", "is it writable?") from None

    def ask(self, ask: Ask) -> None:
        self._tries[ask.id] = self._begin(ask, 1)

    def poll(self) -> tuple[Answer, ...]:
        answers = []
        for attempt in list(self._tries.values()):
            ending = attempt.child.poll()
            answer = self._step(attempt, ending) if ending is not None else None
            if answer is not None:
                self._tries.pop(answer.ask_id, None)
                answers.append(answer)
        return tuple(answers)

    def close(self) -> None:
        tries, self._tries = self._tries, {}
        for attempt in tries.values():
            attempt.child.ask_to_end()
        for attempt in tries.values():
            attempt.child.end()
            self._leave(attempt, keep=False)

    def _begin(self, ask: Ask, number: int) -> _Try:
        """Raises ProposerProblem."""
        path = _free(self._folder, ask.id)
        try:
            workplace = Workplace.prepare(self._repo, path, ask)
        except (OSError, GitProblem) as problem:
            raise ProposerProblem(f"no worktree for {ask.id}: {problem}", "is the disk full?") from problem
        return _Try(ask, number, workplace, self._start(workplace, _environment(ask, path, number)))

    def _start(self, workplace: Workplace, environment: dict[str, str]) -> Child:
        path, command = workplace.path, ["/bin/sh", "-c", self._command]
        try:
            return Child(command, log=_log(path), folder=path, environment=environment, limit_s=self._limit_s)
        except ProposerProblem:
            workplace.drop()
            raise

    def _step(self, attempt: _Try, ending: Ending) -> Answer | None:
        """The answer to an ask whose run has ended; None when it is tried again."""
        answer = self._answer(attempt, ending)
        again = isinstance(answer, NoIdea) and answer.trouble in (Trouble.CRASHED, Trouble.TIMED_OUT)
        again = again and attempt.number <= self._retries
        self._leave(attempt, keep=self._keep and isinstance(answer, NoIdea) and not again)
        if not again:
            return answer
        try:
            self._tries[attempt.ask.id] = self._begin(attempt.ask, attempt.number + 1)
        except ProposerProblem as problem:
            return NoIdea(attempt.ask.id, Trouble.CRASHED, problem.message)
        return None

    def _answer(self, attempt: _Try, ending: Ending) -> Proposed | NoIdea:
        log = attempt.child.printed()
        if ending.how is How.EXIT and ending.code == 0:
            return _with_leftovers(attempt.workplace.read(attempt.ask, log), ending.left)
        trouble = Trouble.TIMED_OUT if ending.how is How.TIMEOUT else Trouble.CRASHED
        tries = f" (try {attempt.number})" if attempt.number > 1 else ""
        return NoIdea(attempt.ask.id, trouble, f"{self._why(ending, log)}{tries}", log)

    def _why(self, ending: Ending, log: str) -> str:
        said = f": {last_line(log)}" if last_line(log) else ""
        match ending.how:
            case How.TIMEOUT:
                return f"it was still at work after {self._limit_s:g} s{said}"
            case How.EXIT if ending.code < 0:
                return f"it was killed by signal {-ending.code}{said}"
            case How.EXIT:
                return f"it left with exit code {ending.code}{said}"
        return ending.problem or "it was stopped"

    def _leave(self, attempt: _Try, *, keep: bool) -> None:
        """A worktree that cannot be dropped is in nobody's way: the next start tries again."""
        try:
            if keep:
                attempt.workplace.keep()
                return
            attempt.workplace.drop()
            _log(attempt.workplace.path).unlink(missing_ok=True)
        except (OSError, GitProblem) as problem:
            self._say(f"note: {attempt.workplace.path} stays: {problem}")


def _with_leftovers(answer: Answer, left: int) -> Answer:
    if not left or not isinstance(answer, Proposed):
        return answer
    leftovers = f"it left {left} process{'es' if left > 1 else ''} behind, ended with it"
    return replace(answer, remark=f"{answer.remark}; {leftovers}" if answer.remark else leftovers)


def _environment(ask: Ask, path: Path, number: int) -> dict[str, str]:
    return {
        **os.environ,
        "ARSCHED_ASK": ask.id,
        "ARSCHED_ROUND": str(ask.round),
        "ARSCHED_SEED": str(ask.seed),
        "ARSCHED_TRY": str(number),
        "ARSCHED_BASE": ask.base_id,
        "ARSCHED_NOTES": str(path / NOTES),
        "ARSCHED_PROMPT": PROMPT,
    }


def _free(folder: Path, name: str) -> Path:
    """A place nobody has kept, told from others by a number where needed."""
    path, number = folder / name, 1
    while path.exists() or _log(path).exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}.log")
