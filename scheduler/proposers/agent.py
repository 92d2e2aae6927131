"""The agent proposer: every ask is one run of a shell command in a git worktree of its own, under a process reaper.

`poll` moves every ask one step on: a run that ended is read and answered, or tried again where it crashed or took too
long. Only the caller's thread touches git. In the worktree train.py is the answer; notes and IDEA.json are no change,
caches and settings that tools leave are forgiven, anything else is a breach. Not covered: whether a source is accepted.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scheduler.domain.errors import ArschedError, CandidateRejected, GitProblem, ProposerProblem
from scheduler.domain.search import Answer, Ask, NoIdea, ProposalFailure, Proposed, Proposer
from scheduler.git import Repo
from scheduler.policy.source import MAX_BYTES, TRAIN_PY, check_changed_paths, normalised
from scheduler.proposers.guard import view_of
from scheduler.proposers.process import EndKind, ManagedProcess, ProcessEnd, last_line
from scheduler.proposers.registry import Options, ProposerSetup, describe_change

OPTIONS = ("command", "preset", "workers", "limit_s", "retries", "keep")
MOST_WORKERS = 8
LIMIT_S = 900.0
# Command lines of well-known coding agents, without a terminal and without questions; the user installs and pays them.
# Each reads its task from $ARSCHED_PROMPT. Versions differ in their flags: `command` takes any other line.
PRESETS: Mapping[str, str] = {
    "claude": 'claude -p "$ARSCHED_PROMPT" --permission-mode acceptEdits',
    "codex": 'codex exec --sandbox workspace-write "$ARSCHED_PROMPT"',
    "gemini": 'gemini --skip-trust --approval-mode auto_edit -p "$ARSCHED_PROMPT"',
    "opencode": 'opencode run "$ARSCHED_PROMPT"',
}
PROMPT = (
    "You improve train.py, which trains a small GPT within a fixed budget; the score is val_bpb, lower is better. "
    "Read NOTES.md first: it says what was tried, what held and what counts as real. Then make one well-founded change "
    "to train.py, and to no other file. Do not train: the change is measured for you. Finally write IDEA.json with the "
    'strings "title" (one short line), "hypothesis" (why it should help) and "theme" (one or two words).'
)


@dataclass
class _Try:
    """One run of the command for an ask."""

    ask: Ask
    number: int  # from 1
    worktree: AskWorktree
    process: ManagedProcess


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


def command_of(options: Options) -> str:
    """The shell command the options ask for. Raises UsageProblem, and ProposerProblem without the preset's program."""
    command, preset = options.text("command"), options.text("preset")
    if bool(command) == bool(preset):
        either = "give command='...', any shell command that edits train.py in the current folder"
        raise options.problem(
            "wants a command or a preset, not both" if command else "wants a command",
            f"{either}, or preset={'|'.join(PRESETS)}",
        )
    if command:
        return command
    if preset not in PRESETS:
        raise options.problem(f"has no preset {preset!r}", f"presets: {', '.join(PRESETS)}")
    if shutil.which(preset) is None:
        hint = f"install and log in to {preset} first, then see that `{preset} --version` works here"
        raise ProposerProblem(f"the program {preset} is not on the PATH", hint)
    return PRESETS[preset]


class AgentProposer:
    """See the module. `keep`: worktrees of asks that brought no idea are left for a look."""

    def __init__(
        self, setup: ProposerSetup, command: str, *, workers: int, limit_s: float, retries: int, keep: bool
    ) -> None:
        self.name, self.capacity = setup.name, workers
        self._command, self._limit_s, self._retries, self._keep = command, limit_s, retries, keep
        self._sandbox = setup.sandbox
        self._report = setup.report
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

    def _begin(self, ask: Ask, number: int) -> _Try:
        """Raises ProposerProblem."""
        path = _unused_path(self._folder, ask.id)
        try:
            worktree = AskWorktree.prepare(self._repo, path, ask)
        except (OSError, GitProblem) as problem:
            raise ProposerProblem(f"no worktree for {ask.id}: {problem}", "is the disk full?") from problem
        environment = {
            **os.environ,
            "ARSCHED_ASK": ask.id,
            "ARSCHED_ROUND": str(ask.round),
            "ARSCHED_SEED": str(ask.seed),
            "ARSCHED_TRY": str(number),
            "ARSCHED_BASE": ask.base_id,
            "ARSCHED_NOTES": str(path / NOTES),
            "ARSCHED_PROMPT": PROMPT,
        }
        shell = ["/bin/sh", "-c", self._command]
        view = view_of(self._repo.root, path, self._sandbox)
        try:
            process = ManagedProcess(
                shell, log=_log(path), folder=path, environment=environment, limit_s=self._limit_s, view=view
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

    def _answer(self, attempt: _Try, end: ProcessEnd) -> Proposed | NoIdea:
        log = attempt.process.printed()
        if end.how is EndKind.EXIT and end.code == 0:
            answer = attempt.worktree.read(attempt.ask, log)
            if end.left and isinstance(answer, Proposed):
                leftovers = f"it left {end.left} process{'es' if end.left > 1 else ''} behind, ended with it"
                return replace(answer, warning=f"{answer.warning}; {leftovers}" if answer.warning else leftovers)
            return answer
        trouble = ProposalFailure.TIMED_OUT if end.how is EndKind.TIMEOUT else ProposalFailure.CRASHED
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


NOTES, IDEA = "NOTES.md", "IDEA.json"
KEPT = ".kept"
_IDEA_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class AskWorktree:
    """A detached worktree at `path`."""

    repo: Repo
    path: Path

    @classmethod
    def prepare(cls, repo: Repo, path: Path, ask: Ask) -> AskWorktree:
        """A fresh worktree of the ask's base. Raises GitProblem, OSError."""
        repo.add_worktree(path, ask.base_commit, None)
        (path / TRAIN_PY).write_bytes(ask.train_py)
        (path / NOTES).write_text(ask.brief, encoding="utf-8")
        return cls(repo, path)

    def read(self, ask: Ask, log: str) -> Proposed | NoIdea:
        """What the agent made of it."""
        try:
            state = self.repo.inspect(self.path, ask.base_commit)
            check_changed_paths(path for path in state.changed if path not in (NOTES, IDEA))
            data = read_regular(self.path / TRAIN_PY, MAX_BYTES)
            if data is None:
                raise CandidateRejected("train.py is gone, is no regular file, or is far too long")
            data = normalised(data)
        except ArschedError as breach:
            return NoIdea(ask.id, ProposalFailure.REFUSED, breach.message, log)
        if data == ask.train_py:
            return NoIdea(ask.id, ProposalFailure.UNCHANGED, "it left train.py as it was", log)
        about, warning = read_idea(self.path / IDEA)
        title = about.get("title")
        if not title and state.head != ask.base_commit:
            title = self.repo.subject(state.head)  # of the agent's own commit
        title = title or describe_change(ask.train_py, data)
        parents = tuple(about.get("parents", "").split())
        return Proposed(ask.id, data, title, about.get("hypothesis", ""), about.get("theme", ""), parents, log, warning)

    def drop(self) -> None:
        """Raises GitProblem."""
        self.repo.drop_worktree(self.path)

    def keep(self) -> None:
        """Not to be swept away by the next proposer that starts here."""
        self.path.with_name(f"{self.path.name}{KEPT}").touch()


def sweep(repo: Repo, folder: Path) -> None:
    """Drop what a killed scheduler left here. Raises GitProblem, OSError."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        kept = path.with_name(f"{path.name.partition('.')[0]}{KEPT}")
        if path.suffix != KEPT and not kept.exists():
            repo.drop_worktree(path)


def read_idea(path: Path) -> tuple[Mapping[str, str], str]:
    """title, hypothesis, theme, parents (joined by blanks), each as text; and a warning when the file is unusable."""
    if not os.path.lexists(path):
        return {}, ""
    data = read_regular(path, _IDEA_BYTES)
    try:
        given = json.loads(data or b"")
        if not isinstance(given, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError):
        return {}, f"{IDEA} was left unread: it is not a JSON object of sensible size"
    about = {name: given[name].strip() for name in ("title", "hypothesis", "theme") if isinstance(given.get(name), str)}
    parents = given.get("parents")
    if isinstance(parents, list):
        about["parents"] = " ".join(one for one in parents if isinstance(one, str))
    return about, ""


def read_regular(path: Path, limit: int) -> bytes | None:
    """At most one byte beyond `limit`; None for what is not a regular file, links among it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
