"""Where the time of the slots went, and what the hardware gave for its hours, from the ledger's attempts alone.

    |<---------------------------- stretch ---------------------------->|
    slot 0  [run train 20 s ]gap[run ..........]gap[run .....]
    slot 1  [run ........]gap[run ...........]........ nothing queued ..|

A stretch is time in which the queue was run: it ends where no slot was held for longer than IDLE_S. A run is busy while
its judge is alive, by the judge's own clock. A gap is the time between two runs of one slot in which the second could
have run already: from the end of the first judge, or the queueing of the second if that was later. It holds all that
scheduling costs: fetching and recording the result, deciding, placing, starting the next judge.
"""

from __future__ import annotations

import itertools
import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler.ledger.runs import AttemptRow
from scheduler.policy.budget import HOUR_S
from scheduler.views import View

IDLE_S = 60.0
NEVER_BEGAN_S = 0.5  # an attempt without a result that was over this soon was refused by its slot


@dataclass(frozen=True, slots=True)
class SlotInterval:
    """One attempt that held a slot and is over. Times in seconds since the epoch.

    `judged_s` is how long its judge lived and `budget_s` how long it trained; without a result all of it and 0.
    """

    run: str
    slot: str
    queued_at: float
    started_at: float
    ended_at: float
    judged_s: float
    budget_s: float

    @property
    def overhead_s(self) -> float:
        """Held by this run, but without its judge."""
        return max(0.0, self.ended_at - self.started_at - self.judged_s)


@dataclass(frozen=True, slots=True)
class SlotUse(View):
    """One slot over all stretches it was there for. Gaps are None with fewer than two runs."""

    slot: str
    runs: int
    busy_s: float
    budget_s: float
    utilisation: float
    budget_share: float
    gap_median_s: float | None
    gap_max_s: float | None


@dataclass(frozen=True, slots=True)
class SlotTime(View):
    """`ideal_s` is the sum of all runs divided by the slots: what no scheduler can beat with runs of these lengths."""

    slots: tuple[SlotUse, ...]
    runs: int
    wall_s: float
    busy_s: float
    ideal_s: float
    utilisation: float
    budget_share: float
    gap_median_s: float | None
    gap_max_s: float | None


@dataclass(frozen=True, slots=True)
class Efficiency(View):
    """What the hardware gave for its hours; on contracts without a GPU an hour is a slot's (`unit`: "GPU" or "slot").

    Offered hours are slots × the time in which the queue was run: what is paid for. Used is the part of it in which a
    run held its slot. Rates are per offered hour, the best one if every slot had been judging all the time, with runs
    of these lengths; None where there is nothing to divide by. Says nothing of what the gains are worth.
    """

    unit: str
    slots: int
    runs: int
    promotions: int
    offered_hours: float
    used_hours: float
    runs_per_hour: float | None
    best_runs_per_hour: float | None
    hours_per_promotion: float | None
    utilisation: float
    budget_share: float


def slot_intervals(attempts: Iterable[AttemptRow]) -> tuple[SlotInterval, ...]:
    """Every attempt that held a slot and is over, those without a result included."""
    found = []
    for row in attempts:
        if row.ended_at is None:
            continue
        held_s = row.ended_at - row.started_at
        judged_s = row.wall_s if row.has_result else None
        if judged_s is None and held_s < NEVER_BEGAN_S:
            continue
        found.append(
            SlotInterval(
                run=row.run_id,
                slot=row.slot_id,
                queued_at=row.queued_at,
                started_at=row.started_at,
                ended_at=row.ended_at,
                judged_s=held_s if judged_s is None else min(judged_s, held_s),
                budget_s=0.0 if judged_s is None else row.train_s or 0.0,
            )
        )
    return tuple(found)


def slot_time(intervals: Iterable[SlotInterval]) -> SlotTime:
    """Sum up the intervals of a lab; with none everything is 0."""
    ordered = sorted(intervals, key=lambda one: (one.started_at, one.run))
    stretches = _stretches(ordered)
    begins = [part[0].started_at for part in stretches]
    by_slot: dict[str, list[SlotInterval]] = defaultdict(list)
    for one in ordered:
        by_slot[one.slot].append(one)
    gaps = {slot: _gaps(mine, begins) for slot, mine in by_slot.items()}
    every_gap = [gap for found in gaps.values() for gap in found]
    wall_s = sum(max(one.ended_at for one in part) - part[0].started_at for part in stretches)
    busy_s, budget_s = sum(one.judged_s for one in ordered), sum(one.budget_s for one in ordered)
    offered_s = wall_s * len(by_slot)
    return SlotTime(
        slots=tuple(_use(slot, mine, gaps[slot], wall_s) for slot, mine in sorted(by_slot.items())),
        runs=len(ordered),
        wall_s=wall_s,
        busy_s=busy_s,
        ideal_s=busy_s / len(by_slot) if by_slot else 0.0,
        utilisation=_share(busy_s, offered_s),
        budget_share=_share(budget_s, offered_s),
        gap_median_s=statistics.median(every_gap) if every_gap else None,
        gap_max_s=max(every_gap, default=None),
    )


def efficiency(unit: str, runs: int, promotions: int, intervals: Iterable[SlotInterval], time: SlotTime) -> Efficiency:
    """`runs` are the finished ones of every kind; `time` is the slot time of these `intervals`."""
    offered = time.wall_s * len(time.slots) / HOUR_S
    return Efficiency(
        unit=unit,
        slots=len(time.slots),
        runs=runs,
        promotions=promotions,
        offered_hours=offered,
        used_hours=sum(max(0.0, one.ended_at - one.started_at) for one in intervals) / HOUR_S,
        runs_per_hour=_ratio(runs, offered),
        best_runs_per_hour=_ratio(runs * HOUR_S, time.busy_s),
        hours_per_promotion=_ratio(offered, promotions) if offered else None,
        utilisation=time.utilisation,
        budget_share=time.budget_share,
    )


def _use(slot: str, intervals: Sequence[SlotInterval], gaps: Sequence[float], wall_s: float) -> SlotUse:
    busy_s, budget_s = sum(one.judged_s for one in intervals), sum(one.budget_s for one in intervals)
    return SlotUse(
        slot=slot,
        runs=len(intervals),
        busy_s=busy_s,
        budget_s=budget_s,
        utilisation=_share(busy_s, wall_s),
        budget_share=_share(budget_s, wall_s),
        gap_median_s=statistics.median(gaps) if gaps else None,
        gap_max_s=max(gaps, default=None),
    )


def _stretches(ordered: Sequence[SlotInterval]) -> list[list[SlotInterval]]:
    parts: list[list[SlotInterval]] = []
    busy_until = float("-inf")
    for one in ordered:
        if one.started_at > busy_until + IDLE_S:
            parts.append([])
        parts[-1].append(one)
        busy_until = max(busy_until, one.ended_at)
    return parts


def _gaps(intervals: Sequence[SlotInterval], begins: Sequence[float]) -> list[float]:
    """Seconds between two runs of one slot; never across stretches, which begin at `begins`."""
    return [
        before.overhead_s + max(0.0, after.started_at - max(before.ended_at, after.queued_at))
        for before, after in itertools.pairwise(intervals)
        if bisect_right(begins, before.started_at) == bisect_right(begins, after.started_at)
    ]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _share(part: float, whole: float) -> float:
    return _ratio(part, whole) or 0.0
