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
    SHELVED = "shelved"  # measured well and not promoted: its patch is kept for a union or a port
    FAILED = "failed"  # no valid score: crash, invalid, timeout
    CANCELLED = "cancelled"

    @property
    def undecided(self) -> bool:
        return self in (CandidateState.OPEN, CandidateState.CONTENDER)


class Origin(StrEnum):
    """Who made a candidate: `init`, a person or an outside agent, a search's proposer, or the scheduler by a merge."""

    BASELINE = "baseline"
    SUBMITTED = "submitted"
    PROPOSED = "proposed"
    UNION = "union"  # the patches of several candidates on the current baseline
    PORT = "port"  # one candidate's patch on a newer baseline than its own

    @property
    def merged(self) -> bool:
        return self in (Origin.UNION, Origin.PORT)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One submitted train.py. `id` is like "c0007"; `base_id` is the baseline it was made from (None: the first).

    `hypothesis` is why its author expects a gain, `theme` a word for the kind of change, `proposer` the name of the
    proposer that made it, `round` a label for one batch of ideas; all are said, not checked, and may be empty.
    `code_lines` counts the lines that hold code.
    """

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
    origin: Origin = Origin.SUBMITTED
    proposer: str = ""
    hypothesis: str = ""
    theme: str = ""
    round: int | None = None
    code_lines: int = 0


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
    origin: Origin = Origin.SUBMITTED
    code_lines: int = 0  # lines that hold code; 0 = not counted

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Mean val_bpb of the scored runs. Raises ZeroDivisionError without any."""
        return sum(self.scores) / len(self.scores)
