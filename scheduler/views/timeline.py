"""Who held which slot from when to when: the bars of the timeline, gaps visible, long pauses cut out.

Times are seconds since the first attempt began, less the pauses before: where no slot was held for longer than PAUSE_S
nobody ran the queue, and a second night would squeeze the first one to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.domain.run import Attempt, Run
from scheduler.domain.text import one_line
from scheduler.ledger import Ledger
from scheduler.views.facts import LabFacts
from scheduler.views.plain import View, utc

PAUSE_S = 600.0
CUT_S = 30.0  # what is left of a pause


@dataclass(frozen=True, slots=True)
class Bar(View):
    """One attempt on its slot. `outcome` is a result's status, lost, stopped or cancelled; "" while it goes on."""

    slot: str
    run: str
    candidate: str
    name: str
    kind: str
    outcome: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Pause(View):
    """So much was cut out at this place."""

    at_s: float
    skipped_s: float


@dataclass(frozen=True, slots=True)
class Timeline(View):
    tag: str
    began_at: str | None
    length_s: float
    slots: tuple[str, ...]
    bars: tuple[Bar, ...]
    pauses: tuple[Pause, ...]


def read_timeline(ledger: Ledger, facts: LabFacts, until: float) -> Timeline:
    """`until` is where attempts that still go on end, in seconds since the epoch."""
    held = [(run, attempt) for run in facts.runs if run.attempts for attempt in ledger.runs.attempts(run.id)]
    return timeline(facts, held, until)


def timeline(facts: LabFacts, held: Sequence[tuple[Run, Attempt]], until: float) -> Timeline:
    ordered = sorted(held, key=lambda one: (one[1].started_at, one[0].id, one[1].number))
    spans = [(attempt.started_at, _end(attempt, until)) for _, attempt in ordered]
    if not spans:
        return Timeline(facts.lab.tag, None, 0.0, (), (), ())
    cuts = _cuts(spans)
    began = spans[0][0]

    def place(at: float) -> float:
        return at - began - sum(skipped for where, skipped in cuts if where < at)

    return Timeline(
        tag=facts.lab.tag,
        began_at=utc(began),
        length_s=place(max(end for _, end in spans)),
        slots=tuple(sorted({one_line(attempt.slot_id) for _, attempt in ordered})),
        bars=tuple(
            Bar(
                slot=one_line(attempt.slot_id),
                run=run.id,
                candidate=run.candidate_id,
                name=one_line(facts.name(run.candidate_id)),
                kind=run.kind.value,
                outcome=one_line(attempt.outcome),
                start_s=place(start),
                end_s=place(end),
            )
            for (run, attempt), (start, end) in zip(ordered, spans, strict=True)
        ),
        pauses=tuple(Pause(place(where), skipped) for where, skipped in cuts),
    )


def _end(attempt: Attempt, until: float) -> float:
    return max(attempt.started_at, until if attempt.ended_at is None else attempt.ended_at)


def _cuts(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where each long pause begins, and how much of it is left out. `spans` by their start."""
    found, busy_until = [], spans[0][1]
    for start, end in spans[1:]:
        if start - busy_until > PAUSE_S:
            found.append((busy_until, start - busy_until - CUT_S))
        busy_until = max(busy_until, end)
    return found
