"""The lab a command is about: repository, ledger and settings, opened together from wherever the command is run.

Opening reads only; it makes no ledger where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Lab
from scheduler.git import Repo
from scheduler.ledger import WHAT_IS_LEFT, Ledger
from scheduler.paths import LabPaths


@dataclass(frozen=True, slots=True)
class Workspace:
    """One lab of one repository."""

    repo: Repo
    paths: LabPaths
    ledger: Ledger
    lab: Lab

    @property
    def tag(self) -> str:
        return self.lab.tag

    def baseline(self) -> Candidate:
        """The current baseline. Raises LabProblem when the lab has none yet."""
        return self.ledger.candidates.get(self.ledger.board(self.tag).baseline_id, self.tag)

    def baseline_commit(self) -> str:
        """What new candidates start from: the last promotion's commit, or the first baseline's."""
        return self.lineage()[-1][1]

    def lineage(self) -> tuple[tuple[str, str], ...]:
        """Candidate id and commit on the lab's branch of every baseline there was, the first one first."""
        promotions = self.ledger.decisions.promotions(self.tag)
        first = self.ledger.candidates.get(promotions[0].base_id, self.tag) if promotions else self.baseline()
        return ((first.id, first.commit), *((made.candidate_id, made.commit) for made in promotions))


@contextmanager
def open_workspace(
    tag: str | None = None, start: Path | None = None, clock: Callable[[], float] = time.time
) -> Iterator[Workspace]:
    """Open the lab `tag` (None: the current one) of the repository `start` (None: here) is in.

    Raises LabProblem without a repository or a lab, LedgerProblem when the ledger cannot be used.
    """
    repo = Repo.open(start or Path.cwd())
    paths = LabPaths(repo.root)
    if not paths.ledger.is_file():
        raise _no_lab(repo, f"the ledger {paths.ledger} is gone")
    with Ledger.open(paths.ledger, clock) as ledger:
        lab = ledger.labs.get(tag) if tag else ledger.labs.current()
        if lab is None:
            raise _no_lab(repo, f"the ledger {paths.ledger} is a new one without a lab")
        yield Workspace(repo, paths, ledger, lab)


def _no_lab(repo: Repo, what: str) -> LabProblem:
    """`what` happened to the ledger, where git shows that there was one."""
    kept = repo.kept_tags()
    if not kept:
        return LabProblem(f"there is no lab in {repo.root} yet", "create one: arsched init --tag TAG")
    tags = ", ".join(kept)
    hint = f"{WHAT_IS_LEFT}; or create a lab with another tag: arsched init --tag TAG"
    return LabProblem(f"{what}; git still keeps every candidate and promotion of: {tags}", hint)
