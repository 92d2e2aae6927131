"""One candidate with everything the ledger knows of it: standing, runs, decisions as they were taken, its diff."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from scheduler.domain.candidate import Candidate, Standing
from scheduler.domain.decision import Combine, DecisionRecord, MeasureBaseline, Retry
from scheduler.domain.text import clean, flat, one_line
from scheduler.ledger import Ledger
from scheduler.views.facts import LabFacts
from scheduler.views.leaderboard import Row, candidate_row
from scheduler.views.merging import MergeRow, made_by, merged_into
from scheduler.views.plain import View, utc
from scheduler.views.run_details import RunView, run_view


@dataclass(frozen=True, slots=True)
class DecisionView(View):
    """A decision with the numbers of the moment it was taken. Effects are None where no scores were compared.

    `base` is what the effect is against; `parts` and `predicted_bpb` are a merge's.
    """

    decided_at: str
    kind: str
    sentence: str
    reason: str
    base: str
    effect_bpb: float | None
    effect_se_bpb: float | None
    effect_shrunken_bpb: float | None
    p_better: float | None
    candidate_runs: int
    base_runs: int
    noise_sd_bpb: float
    noise_repeats: int
    gates: str
    parts: tuple[str, ...] = ()
    predicted_bpb: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateView(View):
    """`diff` is a unified diff of train.py against the baseline it was made from, "" for the first baseline.

    `merge` is what the scheduler made it of, None for the ideas of others; `merged_into` are unions with its patch.
    """

    standing: Row
    author: str
    hypothesis: str
    commit: str
    made_from: str | None
    train_sha256: str
    fingerprint: str
    submitted_at: str
    runs: tuple[RunView, ...]
    decisions: tuple[DecisionView, ...]
    merge: MergeRow | None
    merged_into: tuple[MergeRow, ...]
    diff: str


def candidate_view(ledger: Ledger, facts: LabFacts, candidate: Candidate) -> CandidateView:
    return CandidateView(
        standing=candidate_row(facts, candidate),
        author=one_line(candidate.author),
        hypothesis=one_line(candidate.hypothesis),
        commit=candidate.commit,
        made_from=candidate.base_id,
        train_sha256=candidate.train_sha256,
        fingerprint=candidate.fingerprint,
        submitted_at=utc(candidate.submitted_at),
        runs=tuple(run_view(ledger, facts, run) for run in facts.runs_of[candidate.id]),
        decisions=tuple(map(decision_view, ledger.decisions.of_candidate(candidate.id))),
        merge=made_by(facts, candidate),
        merged_into=merged_into(facts, candidate),
        diff=diff_of(ledger, candidate),
    )


def decision_view(record: DecisionRecord) -> DecisionView:
    decision = record.decision
    effect = None if isinstance(decision, MeasureBaseline | Retry | Combine) else decision.effect
    base = _compared_with(record)
    merge = decision if isinstance(decision, Combine) else None
    return DecisionView(
        decided_at=utc(record.decided_at),
        kind=record.kind,
        sentence=flat(record.sentence),
        reason=one_line(decision.reason),
        base=base.candidate_id,
        effect_bpb=effect.diff if effect else None,
        effect_se_bpb=effect.se if effect else None,
        effect_shrunken_bpb=effect.shrunken if effect else None,
        p_better=effect.p_better if effect else None,
        candidate_runs=record.candidate.n,
        base_runs=base.n,
        noise_sd_bpb=record.noise.sigma,
        noise_repeats=record.noise.df,
        gates=record.gates.name,
        parts=merge.parts if merge else (),
        predicted_bpb=merge.predicted if merge else None,
    )


def _compared_with(record: DecisionRecord) -> Standing:
    """The baseline of that moment, or the older one the candidate was made from."""
    base_id = None if isinstance(record.decision, Retry) else record.decision.base_id
    own = record.own_base
    return own if own is not None and own.candidate_id == base_id else record.base


def diff_of(ledger: Ledger, candidate: Candidate) -> str:
    """Unified diff of train.py against the baseline it was made from, cleaned; "" for the first baseline."""
    if candidate.base_id is None:
        return ""
    before, after = (_lines(ledger.candidates.train_py(ref)) for ref in (candidate.base_id, candidate.id))
    names = (f"{candidate.base_id}/train.py", f"{candidate.id}/train.py")
    return "\n".join(difflib.unified_diff(before, after, *names, lineterm=""))


def _lines(source: bytes) -> list[str]:
    return clean(source.decode("utf-8", errors="replace")).splitlines()
