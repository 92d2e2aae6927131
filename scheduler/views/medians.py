"""What the runs of a candidate said of their speed, size and learning: medians of claims, which decide nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scheduler.domain.candidate import Candidate
from scheduler.domain.result import Measurements, Scored
from scheduler.domain.run import Finished
from scheduler.views.facts import LabFacts
from scheduler.views.plain import View


@dataclass(frozen=True, slots=True)
class Medians(View):
    """Over a candidate's scored runs; None where no run said. `loss_at`: (share of the budget, loss) of the last run.

    `tokens_per_s` is by the contract's clock: what a slot's neighbours do to its wall clock is not the candidate's.
    """

    tokens_per_s: float | None
    steps: float | None
    mfu: float | None
    peak_memory_mb: float | None
    loss_at: tuple[tuple[float, float], ...]


def medians_of(facts: LabFacts, candidate: Candidate) -> Medians:
    measured = [
        run.state.result.measured
        for run in facts.runs_of[candidate.id]
        if isinstance(run.state, Finished) and isinstance(run.state.result.verdict, Scored)
    ]
    return Medians(
        tokens_per_s=_median(measured, _tokens_per_budget_s),
        steps=_median(measured, lambda run: run.steps),
        mfu=_median(measured, lambda run: run.mfu),
        peak_memory_mb=_median(measured, lambda run: run.peak_memory_mb),
        loss_at=measured[-1].loss_at if measured else (),
    )


def describe_medians(medians: Medians) -> str:
    """On one line; what is unknown is left out."""
    parts = [
        "" if medians.tokens_per_s is None else f"{medians.tokens_per_s:,.0f} tokens/s",
        "" if medians.steps is None else f"{medians.steps:,.0f} steps",
        "" if medians.mfu is None else f"MFU {medians.mfu:.1%}",
        "" if medians.peak_memory_mb is None else f"{medians.peak_memory_mb:,.0f} MB",
        describe_losses(medians.loss_at),
    ]
    return ", ".join(part for part in parts if part) or "no figures yet"


def describe_losses(loss_at: tuple[tuple[float, float], ...]) -> str:
    """Like "loss 4.120, 3.300, 2.950 at 25, 50, 75 %"; "" without any."""
    losses = ", ".join(f"{loss:.3f}" for _, loss in loss_at)
    return f"loss {losses} at {', '.join(f'{100 * share:.0f}' for share, _ in loss_at)} %" if loss_at else ""


def _tokens_per_budget_s(run: Measurements) -> float | None:
    return run.tokens / run.budget_used_s if run.tokens and run.budget_used_s else None


def _median(runs: Iterable[Measurements], of: Callable[[Measurements], float | None]) -> float | None:
    known = [value for run in runs if (value := of(run)) is not None]
    return statistics.median(known) if known else None
