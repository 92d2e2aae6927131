"""The train.py a lab starts from: HEAD's with the contract's constants set by name, or a file taken as it stands.

Reads git and files; commits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler.actions.sources import read_train_py
from scheduler.contracts import ContractChoice
from scheduler.domain.errors import CandidateRejected, GitProblem, LabProblem, UsageProblem
from scheduler.git import Repo
from scheduler.policy.constants import read_constants, rewrite_constants
from scheduler.policy.validation import TRAIN_PY, check_train_py


@dataclass(frozen=True, slots=True)
class FirstBaseline:
    """`parent` is the commit it goes on top of; `notes` are worth a line each."""

    parent: str
    train_py: bytes
    notes: tuple[str, ...]


def read_first_baseline(repo: Repo, choice: ContractChoice, train: Path | None) -> FirstBaseline:
    """Raises LabProblem for uncommitted changes in train.py, CandidateRejected or UsageProblem for one of no use."""
    parent = repo.head_commit()
    changed = repo.inspect(repo.root, parent).changed
    notes = _notes(repo, [path for path in changed if path != TRAIN_PY])
    if train is not None:
        if not train.exists():
            raise UsageProblem(f"--train {train}: no such file", "check the path")
        data = read_train_py(train)
        check_train_py(data)
        return FirstBaseline(parent, data, notes)
    if TRAIN_PY in changed:
        raise LabProblem(
            f"{repo.root / TRAIN_PY} has uncommitted changes",
            "commit them (git commit train.py), set them aside (git stash), or start from a file: --train FILE",
        )
    data, said = _with_constants(_of_head(repo, parent), choice)
    return FirstBaseline(parent, data, (*notes, *said))


def _of_head(repo: Repo, parent: str) -> bytes:
    try:
        return repo.read(parent, TRAIN_PY)
    except GitProblem:
        hint = "commit one (git add train.py && git commit), or name a file: --train FILE"
        raise LabProblem(f"the commit {parent[:12]} has no train.py", hint) from None


def _with_constants(data: bytes, choice: ContractChoice) -> tuple[bytes, tuple[str, ...]]:
    source = check_train_py(data)
    wanted = dict(choice.contract.train_constants)
    try:
        rewritten = rewrite_constants(source, wanted)
    except CandidateRejected as problem:
        hint = f"{problem.hint}; or bring a train.py that already fits the contract: --train FILE"
        raise CandidateRejected(f"{problem.message} for contract {choice.contract.name!r}", hint) from None
    before = read_constants(source)
    changed = [f"{name} = {value!r}" for name, value in wanted.items() if before.get(name) != value]
    said = f"train.py of HEAD with {', '.join(changed)}" if changed else "train.py of HEAD as it is"
    return rewritten.encode(), (said,)


def _notes(repo: Repo, others: list[str]) -> tuple[str, ...]:
    notes = []
    if repo.current_branch() is None:
        notes.append(f"HEAD is detached: the lab starts from the commit {repo.head_commit()[:12]}")
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        notes.append(f"uncommitted: {shown}; the lab starts from the last commit, without them")
    return tuple(notes)
