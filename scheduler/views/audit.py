"""An audit: the first result of a candidate and the one from scratch, next to each other, and whether they agree."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from scheduler.domain.run import Finished, Run, Scored
from scheduler.domain.text import one_line
from scheduler.policy.audit import compare_runs
from scheduler.policy.stats import effect_of
from scheduler.search.claim import stats_of
from scheduler.views import View
from scheduler.views.facts import LabFacts


@dataclass(frozen=True, slots=True)
class AuditSide(View):
    """One of the two runs. `probes` are the judge's own words for each; None and empty where it said nothing."""

    run: str
    kind: str
    seed: int
    slot: str
    status: str
    reason: str
    val_bpb: float | None
    holdout_bpb: float | None
    probes: dict[str, str]
    sandbox: str | None
    steps: int | None


@dataclass(frozen=True, slots=True)
class AuditView(View):
    """`sigmas`: the difference in standard errors of one."""

    candidate: str
    name: str
    first: AuditSide
    again: AuditSide
    diff_bpb: float | None
    sigmas: float | None
    consistent: bool
    sentence: str


def audit_view(facts: LabFacts, first: Run, again: Run) -> AuditView:
    """Of two finished runs of one candidate."""
    assert isinstance(first.state, Finished) and isinstance(again.state, Finished)
    outcome = compare_runs(first.state.result.verdict, again.state.result.verdict, _error_between(facts, first, again))
    return AuditView(
        candidate=first.candidate_id,
        name=one_line(facts.name(first.candidate_id)),
        first=_side(first, first.state),
        again=_side(again, again.state),
        diff_bpb=outcome.diff_bpb,
        sigmas=outcome.sigmas,
        consistent=outcome.consistent,
        sentence=one_line(outcome.sentence),
    )


def _error_between(facts: LabFacts, first: Run, again: Run) -> float:
    """Standard error of the difference of two scores in bpb, infinite unless both are there."""
    standing = facts.standings.get(first.candidate_id)
    if facts.noise is None or standing is None:
        return math.inf
    sides = [stats_of(standing, (run,)) for run in (first, again)]
    return effect_of(sides[1], sides[0], facts.noise).se if all(side.n for side in sides) else math.inf


def _side(run: Run, state: Finished) -> AuditSide:
    verdict, measured, raw = state.result.verdict, state.result.measured, json.loads(state.result.text)
    probes = raw.get("probes") if isinstance(raw.get("probes"), dict) else {}
    return AuditSide(
        run=run.id,
        kind=run.kind.value,
        seed=run.seed,
        slot=state.slot_id,
        status=one_line(verdict.status),
        reason="" if isinstance(verdict, Scored) else one_line(verdict.reason),
        val_bpb=verdict.val_bpb if isinstance(verdict, Scored) else None,
        holdout_bpb=_holdout(raw) if isinstance(verdict, Scored) else None,
        probes={one_line(name): one_line(json.dumps(found)) for name, found in probes.items()},
        sandbox=None if measured.sandbox is None else one_line(str(measured.sandbox)),
        steps=measured.steps,
    )


def _holdout(raw: dict[str, Any]) -> float | None:
    """The judge's score on rows that no score is taken from."""
    value = raw.get("holdout_bpb")
    return float(value) if isinstance(value, int | float) else None
