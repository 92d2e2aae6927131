"""The attempts of a lab as stays on slots: who was where from when to when, and since when it could have been."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from scheduler.domain.run import Attempt, Finished, Run
from scheduler.ledger import Ledger
from scheduler.views.facts import LabFacts
from scheduler.views.slot_time import Stay

NEVER_BEGAN_S = 0.5  # an attempt without a result that was over this soon was refused by its slot


def read_stays(ledger: Ledger, facts: LabFacts) -> tuple[Stay, ...]:
    """Every attempt that held a slot and is over, those without a result included."""
    queued_at = _queue_times(ledger, facts.lab.tag)
    started = [run for run in facts.runs if run.attempts]
    return tuple(
        stay for run in started for stay in _stays(run, ledger.runs.attempts(run.id), queued_at.get(run.id, ()))
    )


def _stays(run: Run, attempts: Sequence[Attempt], queued_at: Sequence[float]) -> Iterator[Stay]:
    for attempt in attempts:
        if attempt.ended_at is None:
            continue
        held_s = attempt.ended_at - attempt.started_at
        judged = _judged(run, attempt)
        if judged is None and held_s < NEVER_BEGAN_S:
            continue
        earlier = bisect_right(queued_at, attempt.started_at)
        judged_s, budget_s = judged or (held_s, 0.0)
        yield Stay(
            run=run.id,
            slot=attempt.slot_id,
            queued_at=queued_at[earlier - 1] if earlier else attempt.started_at,
            started_at=attempt.started_at,
            ended_at=attempt.ended_at,
            judged_s=min(judged_s, held_s),
            budget_s=budget_s,
        )


def _queue_times(ledger: Ledger, tag: str) -> Mapping[str, list[float]]:
    """Run id -> when it was queued, the first time and after every attempt that did not count."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in ledger.events.list(tag):
        if event.to_state == "queued":
            times[event.subject].append(event.at)
    return times


def _judged(run: Run, attempt: Attempt) -> tuple[float, float] | None:
    """How long the judge lived and the candidate trained, in wall seconds by the judge's clock; None: no result."""
    if not isinstance(run.state, Finished) or run.state.attempt != attempt.number:
        return None
    measured = run.state.result.measured
    if measured.wall_s is None:
        return None
    return measured.wall_s, dict(measured.phases_s).get("train", 0.0)
