"""Unions and ports: what was merged, what its parts promised together, and what the program then did.

Predicted is the sum of the parts' shrunken effects on the baselines they were made from; measured is the merged
program's effect on the baseline it was merged onto, from all runs there are now. Equal means that gains add up.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.candidate import Candidate
from scheduler.domain.merge import Merge
from scheduler.domain.text import one_line
from scheduler.views.facts import LabFacts
from scheduler.views.plain import View


@dataclass(frozen=True, slots=True)
class PartRow(View):
    """One candidate whose patch was to go in. `merged` is False when it conflicted or changed nothing more."""

    candidate: str
    name: str
    merged: bool


@dataclass(frozen=True, slots=True)
class MergeRow(View):
    """`candidate` is None when nothing came of it, and `problem` says why. Measured is None without a score."""

    number: int
    kind: str
    base: str
    parts: tuple[PartRow, ...]
    candidate: str | None
    name: str
    status: str
    halving: int
    predicted_bpb: float
    measured_bpb: float | None
    measured_se_bpb: float | None
    runs: int
    problem: str

    @property
    def patches(self) -> str:
        """`c0004 warmup + c0007 wider`, of what went in; of what should have where nothing did."""
        inside = [part for part in self.parts if part.merged] or list(self.parts)
        return " + ".join(f"{part.candidate} {part.name}" for part in inside)


def merge_rows(facts: LabFacts) -> tuple[MergeRow, ...]:
    """All merges of a lab, oldest first."""
    return tuple(merge_row(facts, merge) for merge in facts.merges)


def merge_row(facts: LabFacts, merge: Merge) -> MergeRow:
    candidate = facts.by_id.get(merge.candidate_id or "")
    effect = facts.effect(candidate) if candidate else None
    return MergeRow(
        number=merge.number,
        kind="union" if len(merge.merged or merge.parts) > 1 else "port",
        base=merge.base_id,
        parts=tuple(PartRow(ref, one_line(facts.name(ref)), ref in merge.merged) for ref in merge.parts),
        candidate=merge.candidate_id,
        name=one_line(candidate.name) if candidate else "",
        status=candidate.state.value if candidate else "",
        halving=merge.halving,
        predicted_bpb=merge.predicted,
        measured_bpb=effect.diff if effect else None,
        measured_se_bpb=effect.se if effect else None,
        runs=effect.n_candidate if effect else 0,
        problem=one_line(merge.problem),
    )


def made_by(facts: LabFacts, candidate: Candidate) -> MergeRow | None:
    """The merge a candidate came from."""
    return next((merge_row(facts, merge) for merge in facts.merges if merge.candidate_id == candidate.id), None)


def merged_into(facts: LabFacts, candidate: Candidate) -> tuple[MergeRow, ...]:
    """The merges that took a candidate's patch in and gave a program."""
    mine = (merge for merge in facts.merges if candidate.id in merge.merged and merge.candidate_id)
    return tuple(merge_row(facts, merge) for merge in mine)
