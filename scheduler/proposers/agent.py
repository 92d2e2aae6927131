"""The agent proposer: every ask is one run of a command in a git worktree of its own, under a process reaper.

`poll` moves every ask one step on: a run that ended is read and answered, or tried again where it crashed or took too
long. Only the caller's thread touches git. Not covered: what is read from the worktree (answers.py).
"""

from __future__ import annotations

import os
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.errors import GitProblem, ProposerProblem
from scheduler.domain.search import Answer, Ask, NoIdea, ProposalFailure, Proposer
from scheduler.git import Repo
from scheduler.proposers.answers import NOTES, AskWorktree, sweep
from scheduler.proposers.guard import CODE, view_of
from scheduler.proposers.presets import AgentCommand, command_of
from scheduler.proposers.process import NOT_RUN, EndKind, ManagedProcess, ProcessEnd, last_line, path_with_arsched
from scheduler.proposers.registry import Options, ProposerSetup

OPTIONS = ("command", "preset", "model", "arguments", "ideas", "workers", "limit_s", "retries", "keep")
MOST_WORKERS, MOST_IDEAS = 8, 100
LIMIT_S = 900.0
_TASK = (
    "You improve train.py, which trains a small GPT within a fixed budget; the score is val_bpb, lower is better. "
    "Read NOTES.md first: it says what was tried, what held and what counts as real.{manual} "
)
_ONE = (
    "Then make one well-founded change to train.py, and to no other file. Do not train: the change is measured for "
    'you. Finally write IDEA.json with the strings "title" (one short line), "hypothesis" (why it should help) and '
    '"theme" (one or two words).'
)
_SEVERAL = (
    "Then have {ideas} well-founded ideas that do not depend on each other. For each make a folder, candidates/1 to "
    "candidates/{ideas}, with a copy of train.py in it that holds this one change, and an IDEA.json with the strings "
    '"title" (one short line), "hypothesis" (why it should help) and "theme" (one or two words). Change no other file. '
    "Do not train: the changes are measured for you."
)


def prompt_for(ideas: int, manual: Path | None) -> str:
    """The task in words; `manual` is where the agent reads the whole of it."""
    where = f" {manual}, 'Asked by arsched', is your manual." if manual else ""
    return _TASK.format(manual=where) + (_SEVERAL.format(ideas=ideas) if ideas > 1 else _ONE)


def manual_for(worktree: Path) -> Path | None:
    """Where an agent in this worktree finds arsched's program.md: a repository may have another of that name."""
    installed = Path(sysconfig.get_path("data"), "share", "arsched")  # where a wheel has it
    for path in (worktree / "program.md", CODE / "program.md", installed / "program.md"):
        with suppress(OSError, UnicodeDecodeError):
            if _MANUAL_HEADING in path.read_text(encoding="utf-8"):
                return path.relative_to(worktree) if path.is_relative_to(worktree) else path
    return None


_MANUAL_HEADING = "## Asked by arsched"


@dataclass
class _Try:
    """One run of the command for an ask."""

    ask: Ask
    number: int  # from 1
    worktree: AskWorktree
    process: ManagedProcess


def make(setup: ProposerSetup) -> Proposer:
    """Raises UsageProblem for the options; ProposerProblem where the command is not there."""
    options = Options(setup, OPTIONS)
    return AgentProposer(
        setup,
        command_of(options),
        ideas=options.whole("ideas", 1, 1, MOST_IDEAS),
        workers=options.whole("workers", min(max(1, setup.slots), MOST_WORKERS), 1, 64),
        limit_s=options.seconds("limit_s", LIMIT_S),
        retries=options.whole("retries", 1, 0, 100),
        keep=options.flag("keep"),
    )


class AgentProposer:
    """See the module. `keep`: worktrees of asks that brought no idea are left for a look."""

    def __init__(
        self, setup: ProposerSetup, command: AgentCommand, *,
        ideas: int, workers: int, limit_s: float, retries: int, keep: bool,
    ) -> None:  # fmt: skip
        self.name, self.capacity, self.ideas_per_ask = setup.name, workers, ideas
        self._command, self._limit_s, self._retries, self._keep = command, limit_s, retries, keep
        self._sandbox = setup.sandbox
        self._report = setup.report
        self._repo = Repo.open(setup.repo_root)
        self._folder = setup.folder / setup.name
        self._tries: dict[str, _Try] = {}
        self._is_swept = False

    def ask(self, ask: Ask) -> None:
        if not self._is_swept:
            self._sweep()
        self._tries[ask.id] = self._begin(ask, 1)

    def poll(self) -> tuple[Answer, ...]:
        answers = []
        for attempt in list(self._tries.values()):
            end = attempt.process.poll()
            answer = self._step(attempt, end) if end is not None else None
            if answer is not None:
                self._tries.pop(answer.ask_id, None)
                answers.append(answer)
        return tuple(answers)

    def close(self) -> None:
        tries, self._tries = self._tries, {}
        for attempt in tries.values():
            attempt.process.ask_to_end()
        for attempt in tries.values():
            attempt.process.end()
            self._leave(attempt, keep=False)

    def _sweep(self) -> None:
        """Before the first ask. Raises ProposerProblem."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            sweep(self._repo, self._folder)
        except OSError as problem:
            raise ProposerProblem(f"{self._folder} cannot be used: {problem}", "is it writable?") from None
        self._is_swept = True

    def _begin(self, ask: Ask, number: int) -> _Try:
        """Raises ProposerProblem."""
        path = _unused_path(self._folder, ask.id)
        try:
            worktree = AskWorktree.prepare(self._repo, path, ask)
        except (OSError, GitProblem) as problem:
            raise ProposerProblem(f"no worktree for {ask.id}: {problem}", "is the disk full?") from problem
        prompt = prompt_for(ask.ideas, manual_for(path))
        environment = {
            **os.environ,
            **dict(self._command.environment),
            "PATH": path_with_arsched(),
            "ARSCHED_ASK": ask.id,
            "ARSCHED_IDEAS": str(ask.ideas),
            "ARSCHED_ROUND": str(ask.round),
            "ARSCHED_SEED": str(ask.seed),
            "ARSCHED_TRY": str(number),
            "ARSCHED_BASE": ask.base_id,
            "ARSCHED_NOTES": str(path / NOTES),
            "ARSCHED_PROMPT": prompt,
        }
        command = [*self._command.words, *([prompt] if self._command.takes_prompt else [])]
        view = view_of(self._repo.root, path, self._sandbox)
        try:
            process = ManagedProcess(
                command, log=_log(path), folder=path, environment=environment, limit_s=self._limit_s, view=view
            )
        except ProposerProblem:
            worktree.drop()
            raise
        return _Try(ask, number, worktree, process)

    def _step(self, attempt: _Try, end: ProcessEnd) -> Answer | None:
        """The answer to an ask whose run has ended; None when it is tried again."""
        answer = self._answer(attempt, end)
        again = isinstance(answer, NoIdea) and answer.trouble in (ProposalFailure.CRASHED, ProposalFailure.TIMED_OUT)
        again = again and attempt.number <= self._retries
        self._leave(attempt, keep=self._keep and isinstance(answer, NoIdea) and not again)
        if not again:
            return answer
        try:
            self._tries[attempt.ask.id] = self._begin(attempt.ask, attempt.number + 1)
        except ProposerProblem as problem:
            return NoIdea(attempt.ask.id, ProposalFailure.CRASHED, problem.message)
        return None

    def _answer(self, attempt: _Try, end: ProcessEnd) -> Answer:
        log = attempt.process.printed()
        if end.how is EndKind.EXIT and end.code == 0:
            left = f"it left {end.left} process{'es' if end.left > 1 else ''} behind, ended with it" if end.left else ""
            return attempt.worktree.read(attempt.ask, log, left)
        trouble = ProposalFailure.TIMED_OUT if end.how is EndKind.TIMEOUT else ProposalFailure.CRASHED
        if end.how is EndKind.EXIT and end.code in NOT_RUN:
            trouble = ProposalFailure.UNUSABLE
        tries = f" (try {attempt.number})" if attempt.number > 1 else ""
        return NoIdea(attempt.ask.id, trouble, f"{self._why(end, last_line(log))}{tries}", log)

    def _why(self, end: ProcessEnd, printed: str) -> str:
        suffix = f": {printed}" if printed else ""
        match end.how:
            case EndKind.TIMEOUT:
                return f"it was still at work after {self._limit_s:g} s{suffix}"
            case EndKind.EXIT if end.code < 0:
                return f"it was killed by signal {-end.code}{suffix}"
            case EndKind.EXIT:
                return f"it left with exit code {end.code}{suffix}"
        return end.problem or "it was stopped"

    def _leave(self, attempt: _Try, *, keep: bool) -> None:
        """A worktree that cannot be dropped does no harm: the next start tries again."""
        try:
            if keep:
                attempt.worktree.keep()
                return
            attempt.worktree.drop()
            _log(attempt.worktree.path).unlink(missing_ok=True)
        except (OSError, GitProblem) as problem:
            self._report(f"note: {attempt.worktree.path} stays: {problem}")


def _unused_path(folder: Path, name: str) -> Path:
    """A place where nothing was kept, numbered where needed."""
    path, number = folder / name, 1
    while path.exists() or _log(path).exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}.log")
