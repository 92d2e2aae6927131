"""What an id on the command line means: a candidate (id, name, `last`) or a run (id)."""

from __future__ import annotations

import re

from scheduler.domain.candidate import Candidate
from scheduler.domain.run import Finished, Run, Running
from scheduler.workspace import Workspace

_RUN_ID = re.compile(r"r[0-9]+")


def find(space: Workspace, ref: str) -> Candidate | Run:
    """Raises UsageProblem naming the nearest when there is none."""
    if _RUN_ID.fullmatch(ref):
        return space.ledger.runs.get(ref, space.tag)
    return space.ledger.candidates.get(ref, space.tag)


def find_run(space: Workspace, ref: str) -> Run:
    """A run by its id; `last` is the last run queued; a candidate stands for the run that has most to tell.

    That is the one going on, else the last that ended, else the last queued. Raises UsageProblem.
    """
    found = space.ledger.runs.get(ref, space.tag) if ref == "last" else find(space, ref)
    if isinstance(found, Run):
        return found
    runs = space.ledger.runs.of_candidate(found.id)
    return max(runs, key=lambda run: (isinstance(run.state, Running), isinstance(run.state, Finished), run.id))
