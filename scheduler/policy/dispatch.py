"""Which queued run goes next when a slot is free, and why another has to wait.

Order: the first baseline's runs, repeats of contenders (at most their share of the slots), the current baseline's
further runs, new candidates. Nothing waits for a round to end.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.domain.lab import Board
from scheduler.domain.run import Run, RunKind

_SHARE = 0.5


def order_runs(queued: Sequence[Run], running: Sequence[Run], slots: int, board: Board | None) -> tuple[Run, ...]:
    """Queued runs in the order to place them, equals in the order given; repeats beyond their share are left out."""
    allowed = repeats_allowed(slots, board) - sum(run.kind is RunKind.REPEAT for run in running)
    repeats = [run for run in queued if run.kind is RunKind.REPEAT]
    others = [run for run in queued if run.kind is not RunKind.REPEAT]
    chosen = [*others, *repeats[: max(0, allowed)]]
    return tuple(sorted(chosen, key=lambda run: _rank(run, board)))


def repeats_allowed(slots: int, board: Board | None) -> int:
    """How many repeats may be in flight at once: at least one, so that a contender never starves."""
    share = board.gates.max_repeat_share if board else _SHARE
    return max(1, int(slots * share))


def explain_waiting(run: Run, queued: Sequence[Run], running: Sequence[Run], slots: int) -> str:
    """One sentence: why this run is not running."""
    if slots == 0:
        return "no slot can take it: run `arsched doctor` to see why"
    order = order_runs(queued, running, slots, None)
    if run not in order:
        return f"repeats take at most half of the {slots} slots, and as many are running"
    ahead = order.index(run)
    if ahead == 0 and len(running) < slots:
        return "it is next: it starts as soon as somebody runs the queue (`arsched submit` does)"
    if ahead == 0:
        return f"it is next: all {slots} slots are busy"
    first = "1 run goes" if ahead == 1 else f"{ahead} runs go"
    return f"{first} first, and {len(running)} of {slots} slots are busy"


def _rank(run: Run, board: Board | None) -> int:
    if run.kind is RunKind.BASELINE:
        urgent = board is None or board.first_baseline or not board.baseline.n
        return 0 if urgent else 2
    return 1 if run.kind is RunKind.REPEAT else 3
