"""The course of a lab over its runs: one point per candidate, and the staircase of baselines below them.

Runs are counted in the order in which they ended (1, 2, 3, …). A candidate stands where its last run ended, one that
became the baseline where it was promoted.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.result import Scored
from scheduler.domain.run import Finished, RunKind
from scheduler.views.facts import LabFacts
from scheduler.views.leaderboard import Row, candidate_row
from scheduler.views.plain import View


@dataclass(frozen=True, slots=True)
class RunPoint(View):
    """One finished run. `val_bpb` is None when it gave no score; a `claim` run belongs to no candidate's mean."""

    number: int
    run: str
    candidate: str
    val_bpb: float | None
    claim: bool = False


@dataclass(frozen=True, slots=True)
class CandidatePoint(View):
    """A candidate at the number of a run; `val_bpb` and its error are of the mean over all its scored runs.

    `merged`: it is a union or a port.
    """

    number: int
    candidate: str
    name: str
    status: str
    detail: str
    val_bpb: float | None
    val_bpb_se: float | None
    runs: int
    merged: bool = False


@dataclass(frozen=True, slots=True)
class Step(View):
    """A baseline: in force from run `number` on."""

    number: int
    candidate: str
    name: str
    val_bpb: float
    val_bpb_se: float


@dataclass(frozen=True, slots=True)
class History(View):
    tag: str
    contract: str
    noise_sd_bpb: float | None
    runs: tuple[RunPoint, ...]
    candidates: tuple[CandidatePoint, ...]
    baselines: tuple[Step, ...]


def history(facts: LabFacts) -> History:
    ended = sorted(facts.finished, key=lambda run: (_ended_at(run.state), run.id))
    runs = tuple(
        RunPoint(number, run.id, run.candidate_id, _score(run.state), run.kind is RunKind.CLAIM)
        for number, run in enumerate(ended, 1)
    )
    rows = {candidate.id: candidate_row(facts, candidate) for candidate in facts.candidates}
    steps = _baselines(facts, rows, runs)
    # A baseline is measured again after its promotion; it stands where it was promoted.
    own = {point.candidate: point.number for point in runs if not point.claim}
    where = own | {step.candidate: step.number for step in steps}
    return History(
        tag=facts.lab.tag,
        contract=facts.lab.contract_name,
        noise_sd_bpb=facts.noise.sigma if facts.noise else None,
        runs=runs,
        candidates=tuple(_point(facts, rows[ref], n) for ref, n in sorted(where.items(), key=lambda item: item[1])),
        baselines=steps,
    )


def _baselines(facts: LabFacts, rows: dict[str, Row], runs: tuple[RunPoint, ...]) -> tuple[Step, ...]:
    """The first baseline from the first run, every later one from the run of its own that promoted it."""
    first = next((c.id for c in facts.candidates if c.base_id is None), None)
    starts = [(1, first)] if first else []
    ends = {run.id: _ended_at(run.state) for run in facts.finished}
    for promotion in facts.promotions:
        own = (p.number for p in runs if p.candidate == promotion.candidate_id and ends[p.run] <= promotion.promoted_at)
        starts.append((max(own, default=1), promotion.candidate_id))
    chosen = [(number, rows[ref]) for number, ref in starts if ref in rows]
    return tuple(
        Step(number, row.candidate, row.name, row.val_bpb, row.val_bpb_se or 0.0)
        for number, row in chosen
        if row.val_bpb is not None
    )


def _point(facts: LabFacts, row: Row, number: int) -> CandidatePoint:
    merged = facts.by_id[row.candidate].origin.merged
    score = (row.val_bpb, row.val_bpb_se, row.runs)
    return CandidatePoint(number, row.candidate, row.name, row.status, row.detail, *score, merged)


def _ended_at(state: object) -> float:
    return state.finished_at if isinstance(state, Finished) else 0.0


def _score(state: object) -> float | None:
    verdict = state.result.verdict if isinstance(state, Finished) else None
    return verdict.val_bpb if isinstance(verdict, Scored) else None
