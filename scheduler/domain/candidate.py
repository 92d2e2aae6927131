"""A candidate: a commit whose only change is train.py, and where it stands in the lab.

`Candidate` is what was submitted and never changes; `Standing` is what the policies look at: its scores so far and
its state. The baseline is a candidate too (the first one is the commit `arsched init` made).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CandidateState(StrEnum):
    """Where a candidate stands. `open` and `contender` are the ones a decision is still due for."""

    OPEN = "open"  # queued or running its first run, or waiting for the baseline to be measured
    CONTENDER = "contender"  # earned a repeat
    BASELINE = "baseline"  # the current baseline
    PROMOTED = "promoted"  # was the baseline; a later one took its place
    DISCARDED = "discarded"  # measured, not better
    FAILED = "failed"  # no valid score: crash, invalid, timeout
    CANCELLED = "cancelled"

    @property
    def undecided(self) -> bool:
        return self in (CandidateState.OPEN, CandidateState.CONTENDER)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One submitted train.py. `id` is like "c0007"; `base_id` is the baseline it was made from (None: the first)."""

    id: str
    tag: str
    name: str
    commit: str
    base_id: str | None
    train_sha256: str
    fingerprint: str
    title: str
    author: str
    submitted_at: float
    state: CandidateState


@dataclass(frozen=True, slots=True)
class Standing:
    """A candidate in the eyes of the policies. `scores` are val_bpb of its finished, scored runs, oldest first."""

    candidate_id: str
    name: str
    base_id: str | None
    state: CandidateState
    scores: tuple[float, ...] = ()
    pending_runs: int = 0  # queued or running
    failed_runs: int = 0
    suspect_scores: int = 0
    failure: str = ""  # status and reason of the last failed run

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Mean val_bpb of the scored runs. Raises ZeroDivisionError without any."""
        return sum(self.scores) / len(self.scores)
