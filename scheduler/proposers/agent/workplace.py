"""One ask's own worktree: made, filled with notes, read when the agent is done, and dropped.

Knows what counts as a change: train.py is the answer, the notes and the idea's description are not, caches and settings
that tools leave behind are forgiven, anything else is a breach. Whether the source is any good is not asked here.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scheduler.domain.errors import ArschedError, CandidateRejected
from scheduler.domain.proposal import Ask, NoIdea, Proposed, Trouble
from scheduler.git import Repo
from scheduler.policy.validation import MAX_BYTES, TRAIN_PY, check_changed_paths
from scheduler.proposers.titles import describe_change

NOTES, IDEA = "NOTES.md", "IDEA.json"
KEPT = ".kept"
_IDEA_BYTES = 64 * 1024
_LEFT_BY_TOOLS = {
    *("__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".ipynb_checkpoints", ".cache"),
    *(".claude", ".codex", ".gemini", ".opencode"),
}


@dataclass(frozen=True, slots=True)
class Workplace:
    """A detached worktree at `path`."""

    repo: Repo
    path: Path

    @classmethod
    def prepare(cls, repo: Repo, path: Path, ask: Ask) -> Workplace:
        """A fresh worktree of the ask's base. Raises GitProblem, OSError."""
        repo.add_worktree(path, ask.base_commit, None)
        (path / TRAIN_PY).write_bytes(ask.train_py)
        (path / NOTES).write_text(ask.brief, encoding="utf-8")
        return cls(repo, path)

    def read(self, ask: Ask, log: str) -> Proposed | NoIdea:
        """What the agent made of it."""
        try:
            self._check_changes(ask)
            data = self._train_py()
        except ArschedError as breach:
            return NoIdea(ask.id, Trouble.REFUSED, breach.message, log)
        if data == ask.train_py:
            return NoIdea(ask.id, Trouble.UNCHANGED, "it left train.py as it was", log)
        about, remark = read_idea(self.path / IDEA)
        title = about.get("title") or self._subject(ask) or _described(ask.train_py, data)
        parents = tuple(about.get("parents", "").split())
        said = about.get("hypothesis", ""), about.get("theme", "")
        return Proposed(ask.id, data, title, *said, parents, log, remark)

    def drop(self) -> None:
        """Raises GitProblem."""
        self.repo.drop_worktree(self.path)

    def keep(self) -> None:
        """Not to be swept away by the next proposer that starts here."""
        self.path.with_name(f"{self.path.name}{KEPT}").touch()

    def _check_changes(self, ask: Ask) -> None:
        changed = self.repo.inspect(self.path, ask.base_commit).changed
        check_changed_paths(path for path in changed if path not in (NOTES, IDEA) and not _is_forgiven(path))

    def _train_py(self) -> bytes:
        """Raises CandidateRejected for what is no file of sensible size."""
        data = read_regular(self.path / TRAIN_PY, MAX_BYTES)
        if data is None:
            raise CandidateRejected("train.py is gone, is no regular file, or is far too long")
        return data

    def _subject(self, ask: Ask) -> str:
        """The last commit's, when the agent made one."""
        head = self.repo.inspect(self.path, ask.base_commit).head
        return self.repo.subject(head) if head != ask.base_commit else ""


def sweep(repo: Repo, folder: Path) -> None:
    """Drop what a killed scheduler left here. Raises GitProblem, OSError."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        kept = path.with_name(f"{path.name.partition('.')[0]}{KEPT}")
        if path.suffix != KEPT and not kept.exists():
            repo.drop_worktree(path)


def read_idea(path: Path) -> tuple[Mapping[str, str], str]:
    """title, hypothesis, theme and parents (joined by blanks), each as text, and a remark when the file is unusable."""
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


def _is_forgiven(path: str) -> bool:
    return not _LEFT_BY_TOOLS.isdisjoint(PurePosixPath(path).parts)


def _described(before: bytes, after: bytes) -> str:
    return describe_change(before.decode("utf-8", "replace"), after.decode("utf-8", "replace"))
