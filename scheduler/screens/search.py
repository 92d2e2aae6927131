"""A search, its claim and what the hardware gave, in rows of a name and a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.screens import numbers
from scheduler.views.efficiency import Efficiency
from scheduler.views.search import ClaimView, ProposerTally, SearchView


def search_rows(search: SearchView | None, claim: ClaimView | None) -> Iterator[tuple[str, str]]:
    """Nothing for a lab that was never searched."""
    if search is not None:
        reason = f": {search.reason}" if search.reason else ""
        state = f"{search.state}, paused" if search.paused and search.state != "ended" else search.state
        yield "search", f"{search.number}, {state}{reason}"
        yield "spent", spent(search)
        for tally in search.proposers:
            yield "proposer", proposer(tally)
    if claim is not None:
        yield "claim", claim.sentence


def spent(search: SearchView) -> str:
    """`3.20 of 8 hours, 61 of 80 runs, 40 ideas in round 5`"""
    budget, used_up = search.budget, search.spent
    parts = [
        f"{numbers.hours(used_up.hours)}{_of(budget.hours)} hours",
        f"{used_up.runs}{_of(budget.runs)} runs",
        f"{used_up.ideas}{_of(_ideas(search))} ideas" + (f" in round {search.round}" if search.round else ""),
    ]
    if budget.target_bpb is not None and used_up.val_bpb is not None:
        parts.append(f"baseline at {used_up.val_bpb:.4f}, target {budget.target_bpb:g} bpb")
    return ", ".join(parts)


def proposer(tally: ProposerTally) -> str:
    """`agent: 12 asked, 9 new, 1 known, 2 failed (2 × crashed), 3 promoted`"""
    opened = f", {tally.open} open" if tally.open else ""
    troubles = f" ({tally.troubles})" if tally.troubles else ""
    counts = f"{tally.asked} asked{opened}, {tally.queued} new, {tally.known} known, {tally.failed} failed{troubles}"
    return f"{tally.name}: {counts}, {tally.promoted} promoted"


def used(figures: Efficiency) -> str:
    """`6.4 GPU-hours, 98.1 % busy; 9.8 runs per GPU-hour (at best 10.0), 2.1 GPU-hours per promotion`"""
    unit = f"{figures.unit}-hour"
    if figures.runs_per_hour is None or figures.best_runs_per_hour is None:
        return "nothing yet"
    per_gain = figures.hours_per_promotion
    gain = f"{numbers.hours(per_gain)} {unit}s per promotion" if per_gain is not None else "no promotion"
    hours = f"{numbers.hours(figures.offered_hours)} {unit}s, {numbers.share(figures.utilisation)} busy"
    best = f"(at best {figures.best_runs_per_hour:.1f})"
    return f"{hours}; {figures.runs_per_hour:.1f} runs per {unit} {best}, {gain}"


def _of(limit: float | None) -> str:
    return "" if limit is None else f" of {limit:g}"


def _ideas(search: SearchView) -> int | None:
    rounds, ideas = search.budget.rounds, search.budget.ideas
    return None if rounds is None or ideas is None else rounds * ideas
