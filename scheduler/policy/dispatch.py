"""Which queued run goes next when a slot is free, and why another has to wait.

Order: runs of the current baseline (everything is compared with it), repeats of contenders within their share of the
slots, new candidates, then what only fills slots that nothing else wants: repeats beyond their share, and runs of a
baseline that is none any more. Nothing waits for a round to end. Does not know which slot a run gets.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.domain.candidate import Standing
from scheduler.domain.decision import GateSettings
from scheduler.domain.lab import Board
from scheduler.domain.run import Run, RunKind


def order_runs(queued: Sequence[Run], running: Sequence[Run], slots: int, board: Board | None) -> tuple[Run, ...]:
    """All queued runs in the order to place them, equals in the order given. Without a board, by kind alone."""
    repeats = [run for run in queued if run.kind is RunKind.REPEAT]
    if board is not None:
        standings = {standing.candidate_id: standing for standing in board.standings}
        repeats.sort(key=lambda run: _neediness(run, standings[run.candidate_id]))
    now, later = _split(repeats, repeats_allowed(slots, board) - _count_repeats(running))
    baselines = [run for run in queued if run.kind is RunKind.BASELINE]
    current = [run for run in baselines if board is None or run.candidate_id == board.baseline_id]
    former = [run for run in baselines if run not in current]
    new = [run for run in queued if run.kind is RunKind.NEW]
    return (*current, *now, *new, *later, *former)


def repeats_allowed(slots: int, board: Board | None) -> int:
    """How many repeats may hold slots that others want: at least one, so that no contender starves."""
    gates = board.gates if board else GateSettings()
    return max(1, int(slots * gates.max_repeat_share))


def explain_waiting(
    run: Run, queued: Sequence[Run], running: Sequence[Run], slots: int, board: Board | None = None
) -> str:
    """One sentence: why this run is not running while somebody runs the queue. The run is one of `queued`."""
    if slots == 0:
        return "no slot can take it: run `arsched doctor` to see why"
    ahead = order_runs(queued, running, slots, board).index(run)
    if ahead < slots - len(running):
        return "a slot is free for it: it starts in a moment"
    if ahead == 0:
        return f"it is next: all {slots} slots are busy"
    first = "1 run goes" if ahead == 1 else f"{ahead} runs go"
    return f"{first} first{_why(run, running, slots, board)}, and {len(running)} of {slots} slots are busy"


def _neediness(run: Run, standing: Standing) -> tuple[bool, int, float]:
    """Repeats that lost a slot through no fault of theirs first, then the contender with fewest runs, then the best."""
    return run.attempts == 0, standing.n, standing.mean if standing.n else 0.0


def _split(runs: list[Run], allowed: int) -> tuple[list[Run], list[Run]]:
    return runs[: max(0, allowed)], runs[max(0, allowed) :]


def _count_repeats(running: Sequence[Run]) -> int:
    return sum(run.kind is RunKind.REPEAT for run in running)


def _why(run: Run, running: Sequence[Run], slots: int, board: Board | None) -> str:
    if run.kind is RunKind.REPEAT and _count_repeats(running) >= repeats_allowed(slots, board):
        return " because repeats have their share of the slots"
    if board is not None and run.kind is RunKind.BASELINE and run.candidate_id != board.baseline_id:
        return " because its candidate is no longer the baseline"
    return ""
