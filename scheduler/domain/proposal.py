"""Where ideas come from: asks go out to a proposer, answers come in. `Proposer` is the door every source implements.

A proposer is asked, works for as long as it likes, and is polled; nothing here blocks. It knows no ledger, no git and
no slot: an ask carries all it may know, an answer all it found.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate on record, for proposers that learn from scores. `val_bpb` None: it gave none (`failure` says why).

    `pending`: it waits or runs; its score is still to come.
    """

    candidate_id: str
    base_id: str | None
    train_py: bytes
    val_bpb: float | None
    pending: bool
    proposer: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One idea wanted, to be made on `train_py`, the source of the baseline `base_id` (commit `base_commit`).

    `brief` is NOTES.md as text; `trials` every candidate so far, oldest first; `seed` is the ask's own.
    """

    id: str  # like "p0012"
    base_id: str
    base_commit: str
    train_py: bytes
    brief: str
    trials: tuple[Trial, ...]
    round: int
    seed: int


@dataclass(frozen=True, slots=True)
class Proposed:
    """A changed train.py. `parents`: ids of candidates it builds on beside the base. `log`: what its author printed.

    `remark`: what its author did wrong on the way that cost the idea nothing, in words.
    """

    ask_id: str
    train_py: bytes
    title: str
    hypothesis: str = ""
    theme: str = ""
    parents: tuple[str, ...] = ()
    log: str = ""
    remark: str = ""


class Trouble(StrEnum):
    """Why an ask brought no idea: `refused` is an answer that breaks a rule, the others no answer."""

    CRASHED = "crashed"
    TIMED_OUT = "timed-out"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    MALFORMED = "malformed"
    EXHAUSTED = "exhausted"  # it has no more ideas and never will: do not ask again
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class NoIdea:
    """`reason` is for people and for the next brief; `log` what the proposer printed."""

    ask_id: str
    trouble: Trouble
    reason: str
    log: str = ""


Answer = Proposed | NoIdea


class Proposer(Protocol):
    """A source of ideas. Made once per search by its entry point; `ask` and `poll` return at once."""

    name: str
    capacity: int  # asks it works on at a time

    def ask(self, ask: Ask) -> None:
        """Begin one idea. At most `capacity` asks are open at a time. Raises ProposerProblem when it cannot begin."""

    def poll(self) -> tuple[Answer, ...]:
        """Answers since the last poll: exactly one for every ask, sooner or later."""

    def close(self) -> None:
        """End every ask and everything it started. Returns once all of it is dead; answers nothing more."""


class ProposalState(StrEnum):
    """What became of an ask."""

    ASKED = "asked"
    QUEUED = "queued"  # a new candidate
    KNOWN = "known"  # the same program as an earlier candidate: answered from the ledger
    FAILED = "failed"  # no idea: `trouble` and `reason` say why


@dataclass(frozen=True, slots=True)
class Proposal:
    """An ask on record. `candidate_id` is the new or the known one; `trouble` is a Trouble, "" when there was none.

    `reason` is the trouble's; without one, a remark on how the idea came.
    """

    id: str
    search: int
    proposer: str
    base_id: str
    round: int
    seed: int
    state: ProposalState
    candidate_id: str | None
    title: str
    trouble: str
    reason: str
    log: str
    asked_at: float
    answered_at: float | None
