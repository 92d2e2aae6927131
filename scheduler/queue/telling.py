"""What the loop shows of itself: the slots with their runs, as one value for screens and the live file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scheduler.domain.run import Run, Running
from scheduler.domain.slot import Progress, Slot
from scheduler.live import LiveSlot
from scheduler.queue.place import problem_of
from scheduler.workspace import Workspace


def describe_slots(
    space: Workspace, slots: Sequence[Slot], pool_name: str, progress: Mapping[tuple[str, int], Progress]
) -> tuple[LiveSlot, ...]:
    """One entry for every slot, the unusable included."""
    on = {run.state.slot_id: run for run in space.ledger.runs.running(space.tag) if isinstance(run.state, Running)}
    return tuple(
        _describe_run(space, slot, on[slot.id], progress) if slot.id in on else _describe_free(space, slot, pool_name)
        for slot in slots
    )


def _describe_free(space: Workspace, slot: Slot, pool_name: str) -> LiveSlot:
    problem = problem_of(slot, space.lab) or ("" if slot.pool == pool_name else f"of another pool: {slot.pool}")
    return LiveSlot(slot.id, problem)


def _describe_run(space: Workspace, slot: Slot, run: Run, progress: Mapping[tuple[str, int], Progress]) -> LiveSlot:
    assert isinstance(run.state, Running)
    candidate = space.ledger.candidates.get(run.candidate_id, space.tag)
    now = progress.get((run.id, run.state.attempt), Progress())
    return LiveSlot(
        slot=slot.id,
        problem=slot.problem,
        run=run.id,
        attempt=run.state.attempt,
        candidate=candidate.id,
        name=candidate.name,
        kind=run.kind.value,
        seed=run.seed,
        started_at=run.state.started_at,
        phase=now.phase,
        elapsed_s=now.elapsed_s,
        budget_s=now.budget_s,
        step=now.step,
        loss=now.loss,
    )
