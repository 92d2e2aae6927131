"""Budgets of a search: what was spent of them, which one is over, and how much time the claim needs.

Values in, values out. Does not count anything itself, and ends nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scheduler.domain.search import Budget

HOUR_S = 3600.0
TARGET_RUNS = 2  # runs of a baseline before its mean can end a search
LEAST_SHARE_FOR_IDEAS = 0.5  # of the hours, however long the claim takes


@dataclass(frozen=True, slots=True)
class Spent:
    """`runs` are finished ones of every kind but claims, `running` those on a slot now; `ideas` new candidates.

    `undecided` counts ideas that no decision has settled yet, the open asks among them. The baseline is the current
    one: its mean val_bpb (None without a score) over so many runs.
    """

    active_s: float = 0.0
    runs: int = 0
    running: int = 0
    ideas: int = 0
    undecided: int = 0
    baseline_mean: float | None = None
    baseline_runs: int = 0


def why_over(spent: Spent, budget: Budget, ideas_per_round: int, claim_s: float = 0.0) -> str | None:
    """Why no new idea is to be begun, like "8 of 8 hours are spent"; None while there is budget left.

    `claim_s` is what the claim will take: it belongs to the hours. Runs that go on count as spent, so that a budget of
    runs is met exactly; ideas are over once the last one is decided.
    """
    return (
        _target(spent, budget)
        or _hours(spent, budget, claim_s)
        or _runs(spent, budget)
        or _ideas(spent, budget, ideas_per_round)
    )


def ideas_wanted(budget: Budget, ideas_per_round: int) -> int | None:
    """Ideas in all; None when rounds are no limit."""
    return None if budget.rounds is None else budget.rounds * ideas_per_round


def ideas_per_round(budget: Budget, slots: int) -> int:
    """As asked for, else one for every slot."""
    return budget.ideas or max(1, slots)


def time_left_s(spent: Spent, budget: Budget, claim_s: float = 0.0) -> float | None:
    """Seconds until the claim has to begin, not below 0; None without a limit of hours."""
    if budget.hours is None:
        return None
    whole_s = budget.hours * HOUR_S
    return max(0.0, max(whole_s - claim_s, whole_s * LEAST_SHARE_FOR_IDEAS) - spent.active_s)


def claim_time_s(claim_runs: int, slots: int, run_s: float, promoted: bool = True) -> float:
    """An estimate: what still runs ends, a last repeat is made, then the claim's runs go over at most so many slots.

    `run_s` is the usual length of a run. Without a promotion there is nothing to claim and only the first part.
    """
    rounds = math.ceil(2 * claim_runs / max(1, min(claim_runs, slots))) if promoted and claim_runs else 0
    return (2 + rounds) * run_s


def _target(spent: Spent, budget: Budget) -> str | None:
    mean = spent.baseline_mean
    if budget.target_bpb is None or mean is None or spent.baseline_runs < TARGET_RUNS or mean > budget.target_bpb:
        return None
    return f"the baseline is at {mean:.4f} bpb, the target was {budget.target_bpb:g}"


def _hours(spent: Spent, budget: Budget, claim_s: float) -> str | None:
    left_s = time_left_s(spent, budget, claim_s)
    if left_s is None or left_s > 0:
        return None
    hours = f"{spent.active_s / HOUR_S:.2f} of {budget.hours:g} hours are spent"
    return f"{hours}, the rest is the claim's" if spent.active_s < (budget.hours or 0) * HOUR_S else hours


def _runs(spent: Spent, budget: Budget) -> str | None:
    begun = spent.runs + spent.running
    return None if budget.runs is None or begun < budget.runs else f"{begun} of {budget.runs} runs are spent"


def _ideas(spent: Spent, budget: Budget, per_round: int) -> str | None:
    wanted = ideas_wanted(budget, per_round)
    if wanted is None or spent.ideas < wanted or spent.undecided:
        return None
    return f"{spent.ideas} of {wanted} ideas are decided"
