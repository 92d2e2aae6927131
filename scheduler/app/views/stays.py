"""The attempts of a lab as stays on slots: who was where from when to when, and since when it could have been."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping

from scheduler.adapters.ledger import Ledger
from scheduler.app.views.facts import LabFacts
from scheduler.app.views.slot_time import Stay
from scheduler.domain.run import Attempt, Finished, Run


def read_stays(ledger: Ledger, facts: LabFacts) -> tuple[Stay, ...]:
    """Every attempt that is over, those without a result included: they held a slot, too."""
    queued_at = _queue_times(ledger, facts.lab.tag)
    started = [run for run in facts.runs if run.attempts]
    return tuple(stay for run in started for stay in _stays(run, ledger.runs.attempts(run.id), queued_at))


def _stays(run: Run, attempts: tuple[Attempt, ...], queued_at: Mapping[str, list[float]]) -> Iterator[Stay]:
    for attempt in attempts:
        if attempt.ended_at is None:
            continue
        times = queued_at.get(run.id, [])
        earlier = bisect_right(times, attempt.started_at)
        yield Stay(
            run=run.id,
            slot=attempt.slot_id,
            queued_at=times[earlier - 1] if earlier else attempt.started_at,
            started_at=attempt.started_at,
            ended_at=attempt.ended_at,
            budget_s=_trained_s(run, attempt),
        )


def _queue_times(ledger: Ledger, tag: str) -> Mapping[str, list[float]]:
    """Run id -> when it was queued, the first time and after every attempt that did not count."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in ledger.events.list(tag):
        if event.to_state == "queued":
            times[event.subject].append(event.at)
    return times


def _trained_s(run: Run, attempt: Attempt) -> float:
    """Wall seconds inside the budget, by the judge's clock; 0 for an attempt without a result."""
    if not isinstance(run.state, Finished) or run.state.attempt != attempt.number:
        return 0.0
    return dict(run.state.result.measured.phases_s).get("train", 0.0)
