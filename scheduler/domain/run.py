"""A run: one attempt at a score for one candidate, with one seed, on one slot. Its states carry their own data.

    Queued ──lease──> Running ──result──> Finished
       │  ^              │
       │  └──lost/infra──┘ (a new attempt)
       └──> Cancelled <──┘

Running without a slot, or finished without a result, cannot be written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scheduler.domain.result import Result


class RunKind(StrEnum):
    """Why the run exists."""

    BASELINE = "baseline"  # measures the current baseline
    NEW = "new"  # a candidate's first run
    REPEAT = "repeat"  # another seed for a contender
    UNION = "union"  # first run of a candidate the scheduler merged
    CLAIM = "claim"  # first or last baseline at a search's end; counts for the claim alone, never for a decision


@dataclass(frozen=True, slots=True)
class Queued:
    since: float
    last_problem: str = ""  # why an earlier attempt did not count


@dataclass(frozen=True, slots=True)
class Running:
    attempt: int
    slot_id: str
    boot_id: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Finished:
    attempt: int
    slot_id: str
    started_at: float
    finished_at: float
    result: Result


@dataclass(frozen=True, slots=True)
class Cancelled:
    at: float
    reason: str


RunState = Queued | Running | Finished | Cancelled


@dataclass(frozen=True, slots=True)
class Run:
    """`id` is like "r0012"; `pool` names the kind of slot its score may be compared on ("" = not placed yet)."""

    id: str
    candidate_id: str
    kind: RunKind
    seed: int
    attempts: int
    pool: str
    state: RunState


@dataclass(frozen=True, slots=True)
class Attempt:
    """One lease of a run on a slot, told apart by its number (1, 2, …). `outcome` is "" while it lasts.

    Past `expires_at` (seconds since the epoch) a scheduler may hand the run to another slot; until one does, the
    attempt still holds the lease and its result counts.
    """

    number: int
    slot_id: str
    boot_id: str
    started_at: float
    expires_at: float
    ended_at: float | None = None
    outcome: str = ""  # a result's status, or lost, stopped, cancelled
