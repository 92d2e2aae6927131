"""The lineage: every baseline there was, with what was claimed when it was promoted and what is known of it now."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.decision import Effect
from scheduler.domain.text import flat, one_line
from scheduler.ledger import Ledger
from scheduler.views.candidate_details import diff_of
from scheduler.views.facts import LabFacts
from scheduler.views.leaderboard import Row, candidate_row
from scheduler.views.merging import MergeRow, made_by
from scheduler.views.plain import View, utc


@dataclass(frozen=True, slots=True)
class LineageStep(View):
    """One baseline. The `then_…` figures are the promotion's own, against the baseline of that moment.

    They are None for the first baseline. `row` holds what all runs until now say. `diff` is against `base`.
    """

    row: Row
    hypothesis: str
    commit: str
    promoted_at: str | None
    base: str | None
    sentence: str
    then_bpb: float | None
    then_se_bpb: float | None
    then_shrunken_bpb: float | None
    then_p_better: float | None
    merge: MergeRow | None
    diff: str


def read_lineage(ledger: Ledger, facts: LabFacts) -> tuple[LineageStep, ...]:
    """The first baseline first; () while there is none."""
    first = next((candidate.id for candidate in facts.candidates if candidate.base_id is None), None)
    if first is None:
        return ()
    origin = facts.by_id[first]
    steps = [_step(ledger, facts, first, origin.commit)]
    for made in facts.promotions:
        step = _step(
            ledger, facts, made.candidate_id, made.commit, made.base_id, made.effect, made.sentence, made.promoted_at
        )
        steps.append(step)
    return tuple(steps)


def _step(
    ledger: Ledger,
    facts: LabFacts,
    ref: str,
    commit: str,
    base: str | None = None,
    effect: Effect | None = None,
    sentence: str = "",
    promoted_at: float | None = None,
) -> LineageStep:
    candidate = facts.by_id[ref]
    return LineageStep(
        row=candidate_row(facts, candidate),
        hypothesis=one_line(candidate.hypothesis),
        commit=commit,
        promoted_at=None if promoted_at is None else utc(promoted_at),
        base=base,
        sentence=flat(sentence),
        then_bpb=effect.diff if effect else None,
        then_se_bpb=effect.se if effect else None,
        then_shrunken_bpb=effect.shrunken if effect else None,
        then_p_better=effect.p_better if effect else None,
        merge=made_by(facts, candidate),
        diff=diff_of(ledger, candidate),
    )
