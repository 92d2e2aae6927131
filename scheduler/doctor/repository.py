"""Checks of the repository and of what git holds of the lab: train.py, refs and branch, candidates' worktrees.

Changes nothing. The lab itself and its cache are doctor.checks'.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scheduler.actions.init import check_refs, no_train_py
from scheduler.actions.sources import repair_hint
from scheduler.doctor.checks import CheckResult, Grade, from_error, note, ok, problem
from scheduler.domain.errors import ArschedError
from scheduler.git import Repo
from scheduler.lab import LabPaths, Workspace, open_workspace
from scheduler.policy.source import TRAIN_PY
from scheduler.queue.decide import moved_by_hand

SAMPLE_TAG = "a-new-lab"


def check_repository(tag: str | None, start: Path) -> Iterator[CheckResult]:
    """Nothing where there is no repository or no lab to look at: doctor.checks says so."""
    try:
        repo = Repo.open(start)
        head = repo.head_commit()
    except ArschedError:
        return
    yield from _check_worktrees(LabPaths(repo.root))
    try:
        with open_workspace(tag, start) as space:
            yield _check_branch(space)
    except ArschedError:
        yield _check_new_lab(repo, head)


def _check_new_lab(repo: Repo, head: str) -> CheckResult:
    """Whether `arsched init` could begin here."""
    try:
        if not any(path == TRAIN_PY for path in repo.find_files(head, TRAIN_PY)):
            raise no_train_py(repo, head)
        check_refs(repo, SAMPLE_TAG)
    except ArschedError as error:
        return from_error("repository", error)
    return ok("repository", f"{repo.root}, train.py of {head[:12]}")


def _check_branch(space: Workspace) -> CheckResult:
    """Whether the lab's branch is where the ledger has the baseline."""
    branch = space.lab.branch
    try:
        at, commits = space.repo.branch_commit(branch), [commit for _, commit in space.lineage()]
        if at is None:
            space.repo.check_free(commits[-1], f"refs/heads/{branch}")
    except ArschedError as error:
        return from_error("branch", error, Grade.NOTE)
    if at == commits[-1]:
        return ok("branch", f"{branch} at the baseline {at[:12]}")
    if at is None:
        return note("branch", f"there is no branch {branch}", "arsched submit makes it, at the baseline")
    if at in commits:
        return note("branch", f"{branch} is at an earlier baseline {at[:12]}", "arsched submit moves it")
    return from_error("branch", moved_by_hand(space.repo, branch, at, commits[-1]), Grade.NOTE)


def _check_worktrees(paths: LabPaths) -> Iterator[CheckResult]:
    """Worktrees of candidates that lost their repository when the clone was moved."""
    folders = sorted(paths.candidates.resolve().iterdir()) if paths.candidates.is_dir() else []
    lost = [folder for folder in folders if Repo.is_cut_off(folder)]
    if lost:
        named = ", ".join(folder.name for folder in lost[:3]) + (" …" if len(lost) > 3 else "")
        yield problem("worktrees", f"{len(lost)} in candidates/ lost the repository: {named}", repair_hint(paths, lost))
