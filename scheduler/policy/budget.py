"""Budgets of a search: what was spent of them, which one is used up, how much time the claim needs, whose turn it is.

Ideas are shared by weight: the proposer furthest below its share is next, so that a slow one is asked whenever it is
free and a quick one cannot crowd it out. Does not count anything itself, ends nothing, asks no proposer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from scheduler.domain.search import SearchBudget
from scheduler.domain.text import count

HOUR_S = 3600.0
TARGET_RUNS = 2  # runs of a baseline before its mean can end a search
LEAST_SHARE_FOR_IDEAS = 0.5  # of the hours, however long the claim takes
FIRST_REST_S, LONGEST_REST_S = 5.0, 600.0
PATIENCE = 8  # failures in a row after which a proposer is given up that has brought nothing new yet, or only repeats
PROVEN_PATIENCE = 40  # the same for one that has brought ideas: about six hours, longer than a usage limit lasts
KNOWN_PATIENCE = 3  # repeats in a row that are no failure yet


@dataclass(frozen=True, slots=True)
class Spent:
    """`runs` are finished ones of candidates that came since the search began, `running` and `queued` the others.

    Claims are not among them, nor the first baseline's runs and what was queued before. `ideas` are new candidates;
    `undecided` counts those that no decision has settled yet, the open asks among them. `owes_idea`: none of them
    has had a slot yet, and one may. The baseline is the current one: its mean val_bpb (None without a score) over so
    many runs.
    """

    active_s: float = 0.0
    runs: int = 0
    running: int = 0
    queued: int = 0
    ideas: int = 0
    undecided: int = 0
    owes_idea: bool = False
    baseline_mean: float | None = None
    baseline_runs: int = 0


def why_over(spent: Spent, budget: SearchBudget, ideas_per_round: int, claim_s: float = 0.0) -> str | None:
    """Why no new idea is to be begun, like "8 of 8 hours are spent"; None while there is budget left.

    `claim_s` is what the claim will take: it belongs to the hours. Runs that go on count, so that a budget of runs is
    met exactly; it buys one idea at least. Ideas are over once the last one is decided.
    """
    mean, proven = spent.baseline_mean, spent.baseline_runs >= TARGET_RUNS
    if budget.target_bpb is not None and mean is not None and proven and mean <= budget.target_bpb:
        return f"the baseline is at {mean:.4f} bpb, the target was {budget.target_bpb:g}"
    if budget.hours is not None and not time_left_s(spent, budget, claim_s):
        hours = f"{spent.active_s / HOUR_S:.2f} of {budget.hours:g} hours are spent"
        return f"{hours}, the rest is the claim's" if spent.active_s < budget.hours * HOUR_S else hours
    begun, wanted = spent.runs + spent.running, ideas_wanted(budget, ideas_per_round)
    if budget.runs is not None and begun >= budget.runs and not spent.owes_idea:
        done = "finished or on a slot" if spent.running else "finished"
        return f"{begun} of {count(budget.runs, 'run')} {'is' if budget.runs == 1 else 'are'} {done}"
    if wanted is not None and spent.ideas >= wanted and not spent.undecided:
        return f"{spent.ideas} of {count(wanted, 'idea')} {'is' if wanted == 1 else 'are'} decided"
    return None


def ideas_left(spent: Spent, budget: SearchBudget, ideas_per_round: int) -> int | None:
    """How many more ideas may be begun, those under way included; None without a limit."""
    wanted, left = ideas_wanted(budget, ideas_per_round), []
    if wanted is not None:
        left.append(wanted - spent.ideas)
    if budget.runs is not None:
        left.append(
            max(budget.runs - spent.runs - spent.running - spent.queued, int(spent.owes_idea and not spent.ideas))
        )
    return min(left, default=None)


def ideas_wanted(budget: SearchBudget, ideas_per_round: int) -> int | None:
    """Ideas in all; None when rounds are no limit."""
    return None if budget.rounds is None else budget.rounds * ideas_per_round


def ideas_per_round(budget: SearchBudget, slots: int) -> int:
    """As asked for, else one for every slot."""
    return budget.ideas or max(1, slots)


def time_left_s(spent: Spent, budget: SearchBudget, claim_s: float = 0.0) -> float | None:
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


def next_proposer(weights: Mapping[str, float], ideas: Mapping[str, int], able: Collection[str]) -> str | None:
    """The able proposer furthest below its share of all ideas, the first named among equals; None without any.

    `ideas` counts what each has brought and what it is asked for now; `weights` are positive.
    """
    total = sum(weights.values())
    count = sum(ideas.get(name, 0) for name in weights) + 1
    lag = {name: weight / total * count - ideas.get(name, 0) for name, weight in weights.items() if name in able}
    return max(lag, key=lambda name: lag[name], default=None)


def rest_s(failures: int) -> float:
    """Seconds without an ask after so many failures in a row: 5, 10, 20 … at most 600."""
    return min(FIRST_REST_S * 2.0 ** max(0, failures - 1), LONGEST_REST_S)
