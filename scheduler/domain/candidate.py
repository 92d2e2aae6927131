"""A candidate: a commit whose only change is train.py. The baselines are candidates too.

`Candidate` is what was submitted and never changes; `CandidateStats` is what the policies look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scheduler.domain.run import RunKind


class CandidateState(StrEnum):
    """A decision is still due for `open` and `contender`."""

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
class Source:
    """A train.py that passed every check of scheduler.policy.source, with what its program is known by.

    `data` are its bytes without byte order mark and with LF; `sha256` (hex) is theirs; equal `fingerprint`s mean equal
    programs.
    """

    data: bytes
    sha256: str
    fingerprint: str
    code_lines: int

    @property
    def text(self) -> str:
        return self.data.decode()


@dataclass(frozen=True, slots=True)
class NewCandidate:
    """A candidate on its way into the ledger, which gives it its id; fields as in `Candidate`.

    `commit` holds the bytes of `source`; `runs` runs of `kind` are queued with it.
    """

    source: Source
    name: str
    commit: str
    base_id: str | None
    title: str
    author: str
    kind: RunKind = RunKind.NEW
    runs: int = 1
    state: CandidateState = CandidateState.OPEN
    origin: Origin = Origin.SUBMITTED
    proposer: str = ""
    hypothesis: str = ""
    theme: str = ""
    round: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One submitted train.py. `id` is like "c0007"; `base_id` is the baseline it was made from (None: the first).

    `hypothesis` is why its author expects a gain, `theme` a word for the kind of change, `proposer` the name of the
    proposer that made it, `round` a label for one batch of ideas; none is checked, and all may be empty.
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


CLONES = "clones"  # what such a score is suspected of
CLONE_BPB = 1e-9  # honest runs with different seeds differ by a thousandth: so near by chance is one pair in 10**6


def group_clones(scores: Sequence[float], seeds: Sequence[int] = ()) -> tuple[tuple[int, ...], ...]:
    """Indices of the scores, those that agree to the last digits together, in the order of their first.

    Runs with different seeds see other data in another order: a group of several tells of a program that does not
    depend on its training, and is worth one score at most. Scores that all have one of `seeds` are no group: where
    nothing is random they agree. Without `seeds` all are different.
    """
    groups: list[list[int]] = []
    for index, score in enumerate(scores):
        known = next((group for group in groups if abs(scores[group[0]] - score) <= CLONE_BPB), None)
        groups.append([index]) if known is None else known.append(index)
    if seeds:
        split = ([group] if len({seeds[i] for i in group}) > 1 else [[i] for i in group] for group in groups)
        groups = sorted(part for parts in split for part in parts)
    return tuple(map(tuple, groups))


@dataclass(frozen=True, slots=True)
class Occasion:
    """When, where and with which seed a score was measured.

    `at`: the middle of the run, seconds since the epoch. `speed`: the machine's while it trained, as a share of its
    calibrated speed; `train_s`: for how long it trained, wall seconds. Both None where they were not measured.
    Candidates' runs with one seed see the same data and start alike.
    """

    at: float
    slot_id: str
    seed: int
    speed: float | None = None
    train_s: float | None = None


@dataclass(frozen=True, slots=True)
class FirstScore:
    """The first val_bpb of an idea made from this baseline."""

    score: float
    base_id: str
    occasion: Occasion


@dataclass(frozen=True, slots=True)
class CandidateStats:
    """What decisions are taken from. `scores` are val_bpb of its finished, scored runs, oldest first.

    Of clones one is among them, as a suspect; the others count as failed runs. `occasions` are those of `scores`; none
    where they are not known, and then all scores count as measured at one time on one machine.
    """

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
    occasions: tuple[Occasion, ...] = ()
    running_since: tuple[float, ...] = ()  # when those of its pending runs that hold a slot began, oldest first

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Mean val_bpb of the scored runs. Raises ZeroDivisionError without any."""
        return sum(self.scores) / len(self.scores)
