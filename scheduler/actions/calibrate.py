"""Queueing a calibration: the baseline with the same seeds on every slot. Which slot runs what: queue/place.py."""

from __future__ import annotations

from scheduler.domain.run import Cancelled, Queued, Run, RunKind, Running
from scheduler.lab import Workspace


def queue_calibration(space: Workspace, seeds: int, *, dry_run: bool = False) -> tuple[str, tuple[Run, ...]]:
    """The candidate that is measured, and the runs queued now: one for each seed that is missing, the placing adds the
    others. One at least, so that slots get what they lack since; it is cancelled where none lacks anything.

    A calibration under way goes on with its candidate and seeds, whatever the baseline is by now.
    """
    its = calibration_runs(space)
    pending = [run for run in its if isinstance(run.state, Queued | Running)]
    candidate = pending[0].candidate_id if pending else space.ledger.board(space.tag).baseline_id
    known = seeds_of(its, candidate)
    if dry_run:
        return candidate, ()
    wanted: list[int | None] = [None] * max(0, seeds - len(known))
    if not wanted and not pending:
        wanted = [known[0]]
    return candidate, tuple(_add(space, candidate, seed) for seed in wanted)


def calibration_runs(space: Workspace) -> tuple[Run, ...]:
    """All of the lab, in the order of their queueing, those that were cancelled left out."""
    runs = space.ledger.runs.of_kind(space.tag, RunKind.CALIBRATION)
    return tuple(run for run in runs if not isinstance(run.state, Cancelled))


def seeds_of(runs: tuple[Run, ...], candidate: str) -> list[int]:
    """In the order of their first runs."""
    return list(dict.fromkeys(run.seed for run in runs if run.candidate_id == candidate))


def _add(space: Workspace, candidate: str, seed: int | None) -> Run:
    runs = space.ledger.runs
    return runs.add(candidate, RunKind.CALIBRATION, "calibration", seed or runs.fresh_seed(space.tag))
