"""A new candidate's worktree on the current baseline. Nothing is queued: that is submit's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import CandidateRejected
from scheduler.workspace import Workspace

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LIKE_AN_ID = re.compile(r"[cr][0-9]+|last")


@dataclass(frozen=True, slots=True)
class NewWorktree:
    path: Path
    branch: str
    base: Candidate
    commit: str


def new_worktree(space: Workspace, name: str, *, dry_run: bool = False) -> NewWorktree:
    """Make `candidates/<name>` on the branch arsched/<tag>/<name>. Raises CandidateRejected, GitProblem, LabProblem."""
    check_name(name)
    made = NewWorktree(
        path=space.paths.candidate(name),
        branch=f"arsched/{space.tag}/{name}",
        base=space.baseline(),
        commit=space.baseline_commit(),
    )
    if not dry_run:
        space.repo.add_worktree(made.path, made.commit, made.branch)
    return made


def check_name(name: str) -> None:
    """Raises CandidateRejected for a name that cannot be a folder, a branch and a word on the command line."""
    if not _NAME.fullmatch(name) or name.endswith((".lock", ".")) or ".." in name:
        hint = "letters, digits, '-', '_' and '.', at most 64, beginning with a letter or digit: wider-mlp"
        raise CandidateRejected(f"{name!r} cannot name a candidate", hint)
    if _LIKE_AN_ID.fullmatch(name):
        raise CandidateRejected(f"{name!r} reads like an id", "choose a name that says what the idea is: wider-mlp")
