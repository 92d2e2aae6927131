"""Where the time of the slots went, from the ledger's attempts alone.

    |<---------------------------- stretch ---------------------------->|
    slot 0  [run train 20 s ]gap[run ..........]gap[run .....]
    slot 1  [run ........]gap[run ...........]........ nothing queued ..|

A stretch is time in which somebody ran the queue: it ends where no slot was held for longer than IDLE_S. A run is busy
while its judge is alive, by the judge's own clock. A gap is the time between two runs of one slot in which the second
could have run already: from the end of the first judge, or the queueing of the second if that was later. It holds all
that scheduling costs: fetching and recording the result, deciding, placing, starting the next judge.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scheduler.views.plain import View

IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Stay:
    """One attempt that held a slot and is over. Times in seconds since the epoch.

    `judged_s` is how long its judge lived and `budget_s` how long it trained; without a result the whole stay and 0.
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


def slot_time(stays: Iterable[Stay]) -> SlotTime:
    """Sum up the stays of a lab; with none everything is 0."""
    ordered = sorted(stays, key=lambda stay: (stay.started_at, stay.run))
    stretches = _stretches(ordered)
    spans = [(part[0].started_at, max(stay.ended_at for stay in part)) for part in stretches]
    wall_s = sum(end - start for start, end in spans)
    by_slot = _by_slot(ordered)
    gaps = {slot: _gaps(mine, spans) for slot, mine in by_slot.items()}
    every_gap = [gap for found in gaps.values() for gap in found]
    busy_s, budget_s = sum(stay.judged_s for stay in ordered), sum(stay.budget_s for stay in ordered)
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


def _use(slot: str, stays: Sequence[Stay], gaps: Sequence[float], wall_s: float) -> SlotUse:
    busy_s, budget_s = sum(stay.judged_s for stay in stays), sum(stay.budget_s for stay in stays)
    return SlotUse(
        slot=slot,
        runs=len(stays),
        busy_s=busy_s,
        budget_s=budget_s,
        utilisation=_share(busy_s, wall_s),
        budget_share=_share(budget_s, wall_s),
        gap_median_s=statistics.median(gaps) if gaps else None,
        gap_max_s=max(gaps, default=None),
    )


def _stretches(ordered: Sequence[Stay]) -> list[list[Stay]]:
    parts: list[list[Stay]] = []
    busy_until = float("-inf")
    for stay in ordered:
        if stay.started_at > busy_until + IDLE_S:
            parts.append([])
        parts[-1].append(stay)
        busy_until = max(busy_until, stay.ended_at)
    return parts


def _gaps(stays: Sequence[Stay], spans: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds between two runs of one slot; never across stretches."""
    found = []
    for before, after in itertools.pairwise(stays):
        together = any(start <= before.started_at and after.started_at <= end for start, end in spans)
        if together:
            found.append(before.overhead_s + max(0.0, after.started_at - max(before.ended_at, after.queued_at)))
    return found


def _by_slot(stays: Sequence[Stay]) -> Mapping[str, list[Stay]]:
    found: dict[str, list[Stay]] = defaultdict(list)
    for stay in stays:
        found[stay.slot].append(stay)
    return found


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
