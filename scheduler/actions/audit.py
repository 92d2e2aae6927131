"""A run of a stored candidate is scored again from scratch, through the queue like any other; it decides nothing."""

from __future__ import annotations

from scheduler.domain.errors import NotYet
from scheduler.domain.run import Finished, Run, RunKind
from scheduler.lab import Workspace, find_run


def queue_audit(space: Workspace, ref: str, seed: int | None) -> tuple[Run, Run]:
    """The finished run that `ref` names, and the queued one that audits it; `seed` None: one that no run has had.

    Raises UsageProblem for an unknown run or a seed that its candidate has had, NotYet for a run without a result.
    """
    first = find_run(space, ref)
    if not isinstance(first.state, Finished):
        raise NotYet(f"{first.id} has no result to audit", f"wait for it: arsched wait {first.id}")
    seed = seed or space.ledger.runs.fresh_seed(space.tag)
    return first, space.ledger.runs.add(first.candidate_id, RunKind.AUDIT, f"audit of {first.id}", seed)
