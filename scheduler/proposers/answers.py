"""The worktree that an agent is asked in, and what it left there: one idea, or several of them, each read alone.

In the worktree train.py is the answer; folders candidates/1, 2 … and the entries "ideas" of IDEA.json are, too, as far
as more are wanted. Notes are no change, nor what tools leave; anything else is a breach. Not covered:
whether a source is accepted.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from scheduler.domain.errors import ArschedError
from scheduler.domain.search import Answer, Ask, NoIdea, ProposalFailure, Proposed, SeveralIdeas
from scheduler.domain.text import id_order
from scheduler.git import Repo
from scheduler.policy.source import MAX_BYTES, TRAIN_PY, check_changed_paths, normalised
from scheduler.proposers.lines import read_answer
from scheduler.proposers.registry import describe_change

NOTES, IDEA, FOLDERS = "NOTES.md", "IDEA.json", "candidates"
KEPT = ".kept"
_IDEA_BYTES = 64 * 1024  # for each idea wanted

Read = Proposed | NoIdea


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

    def read(self, ask: Ask, log: str, left: str = "") -> Answer:
        """What the agent made of it. `left` is a warning about what else it left."""
        try:
            state = self.repo.inspect(self.path, ask.base_commit)
            others = (path for path in state.changed if path not in (NOTES, IDEA))
            check_changed_paths(path for path in others if not _is_in_folder(path))
            title = self.repo.subject(state.head) if state.head != ask.base_commit else ""  # of its own commit
        except ArschedError as breach:
            return NoIdea(ask.id, ProposalFailure.REFUSED, breach.message, log)
        idea, warning = read_idea(self.path / IDEA, _IDEA_BYTES * ask.ideas)
        own = _read_folder(ask, self.path, idea, title)
        unchanged = isinstance(own, NoIdea) and own.trouble is ProposalFailure.UNCHANGED
        several = [*_read_entries(ask, idea), *self._read_folders(ask)]
        found = several if several and unchanged else [own, *several]
        many = f"it left {len(found)} ideas; wanted: {ask.ideas}" if len(found) > ask.ideas else ""
        *first, last = (_with_log(one, log) for one in found[: ask.ideas])
        last = _with_warnings(last, warning, many, left)
        return SeveralIdeas(ask.id, (*first, last)) if ask.ideas > 1 else last

    def _read_folders(self, ask: Ask) -> Iterator[Read]:
        """Of the folders that the agent made in candidates/; a link is none."""
        folders = self.path / FOLDERS
        if folders.is_symlink() or not folders.is_dir():
            return
        for folder in sorted(folders.iterdir(), key=lambda one: id_order(one.name)):
            if folder.is_dir() and not folder.is_symlink():
                place = f"{FOLDERS}/{folder.name}"
                if not os.path.lexists(folder / TRAIN_PY):
                    if ask.ideas > 1:
                        yield NoIdea(ask.id, ProposalFailure.MALFORMED, f"{place}: it holds no {TRAIN_PY}")
                    continue
                try:
                    check_changed_paths(one.name for one in folder.iterdir() if one.name not in (NOTES, IDEA))
                except (ArschedError, OSError) as breach:
                    yield NoIdea(ask.id, ProposalFailure.REFUSED, f"{place}: {breach}")
                    continue
                idea, warning = read_idea(folder / IDEA, _IDEA_BYTES)
                yield _with_warnings(_placed(_read_folder(ask, folder, idea, ""), place), warning)

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


def _is_in_folder(path: str) -> bool:
    """Whether a changed path is of an idea's own folder, which is looked at alone.

    A folder that is a repository of its own is such a path, with "/" last.
    """
    parts = PurePosixPath(path).parts
    return parts[0] == FOLDERS and len(parts) + path.endswith("/") > 2


def _read_folder(ask: Ask, folder: Path, idea: Mapping[str, object], title: str) -> Read:
    """The change of the train.py in a folder, as `idea` describes it, else by `title`."""
    data = read_regular(folder / TRAIN_PY, MAX_BYTES)
    if data is None:
        return NoIdea(ask.id, ProposalFailure.REFUSED, "train.py is gone, is no regular file, or is far too long")
    data = normalised(data)
    if data == ask.train_py:
        return NoIdea(ask.id, ProposalFailure.UNCHANGED, "it left train.py as it was")
    words = {name: value.strip() for name, value in idea.items() if isinstance(value, str)}
    parents = idea.get("parents")
    return Proposed(
        ask.id, data, words.get("title") or title or describe_change(ask.train_py, data),
        words.get("hypothesis", ""), words.get("theme", ""),
        tuple(one for one in parents if isinstance(one, str)) if isinstance(parents, list) else (),
    )  # fmt: skip


def _read_entries(ask: Ask, idea: Mapping[str, object]) -> Iterator[Read]:
    """The ideas that IDEA.json lists, each with a patch, with constants by name, or with a whole train.py."""
    entries = idea.get("ideas", [])
    if not isinstance(entries, list):
        yield NoIdea(ask.id, ProposalFailure.MALFORMED, f'{IDEA}: "ideas" is no list')
    for number, entry in enumerate(entries if isinstance(entries, list) else (), 1):
        answer: Answer = NoIdea(ask.id, ProposalFailure.MALFORMED, "it is no object")
        if isinstance(entry, dict):
            answer = read_answer(ask, entry)
        if not isinstance(answer, SeveralIdeas):
            yield _placed(answer, f"{IDEA}, idea {number}")


def _placed(answer: Read, place: str) -> Read:
    """A refusal says which of several ideas it is about."""
    return replace(answer, reason=f"{place}: {answer.reason}") if isinstance(answer, NoIdea) else answer


def _with_log(answer: Read, log: str) -> Read:
    return replace(answer, log=log)


def _with_warnings(answer: Read, *warnings: str) -> Read:
    """Where there is no idea, they are part of the reason."""
    if isinstance(answer, NoIdea):
        return replace(answer, reason="; ".join(filter(None, (answer.reason, *warnings))))
    return replace(answer, warning="; ".join(filter(None, (answer.warning, *warnings))))


def read_idea(path: Path, limit: int) -> tuple[Mapping[str, object], str]:
    """What IDEA.json holds, unchecked; and a warning when the file is unusable."""
    if not os.path.lexists(path):
        return {}, ""
    data = read_regular(path, limit)
    try:
        given = json.loads(data or b"")
        if not isinstance(given, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError):
        return {}, f"{IDEA} was left unread: it is not a JSON object of sensible size"
    return given, ""


def read_regular(path: Path, limit: int) -> bytes | None:
    """At most one byte beyond `limit`; None for what is not a regular file, links among it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
