"""What the hardware gave for its hours: runs per GPU-hour and GPU-hours per promotion.

    offered    slots × the time in which somebody ran the queue: what is paid for
    used       the part of it in which a run held its slot
    at best    runs per hour if every slot had been judging all the time, with runs of these lengths

On contracts without a GPU an hour is a slot's. Says nothing of what the gains are worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.views.facts import LabFacts
from scheduler.views.plain import View
from scheduler.views.slot_time import SlotTime, Stay

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Efficiency(View):
    """`unit` is "GPU" or "slot". Rates are per offered hour; None where there is nothing to divide by."""

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


def efficiency(facts: LabFacts, stays: Sequence[Stay], time: SlotTime) -> Efficiency:
    """`time` is the slot time of these `stays`. Runs are the finished ones of every kind, claims among them."""
    runs, promotions = len(facts.finished), len(facts.promotions)
    offered = time.wall_s * len(time.slots) / HOUR_S
    return Efficiency(
        unit="GPU" if facts.lab.device == "cuda" else "slot",
        slots=len(time.slots),
        runs=runs,
        promotions=promotions,
        offered_hours=offered,
        used_hours=sum(max(0.0, stay.ended_at - stay.started_at) for stay in stays) / HOUR_S,
        runs_per_hour=_ratio(runs, offered),
        best_runs_per_hour=_ratio(runs * HOUR_S, time.busy_s),
        hours_per_promotion=_ratio(offered, promotions) if offered else None,
        utilisation=time.utilisation,
        budget_share=time.budget_share,
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
