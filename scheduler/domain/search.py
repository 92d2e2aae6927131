"""A search, its budget and settings, and where its ideas come from: every source of them implements `Proposer`.

A proposer is asked, works for as long as it likes, and is polled; nothing here blocks. It knows no ledger, no git and
no slot: an ask carries all it may know, an answer all it found.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SearchBudget:
    """What ends a search; None = no such limit. The first limit reached ends it; the claim's runs come on top.

    `hours` is time in which the search was run, pauses and downtime left out; `runs` counts finished runs of candidates
    that came since it began, so the first baseline's and those queued before come on top, too; `rounds` × `ideas`
    counts new ideas; `target_bpb` is the current baseline's mean.
    """

    hours: float | None = None
    runs: int | None = None
    rounds: int | None = None
    ideas: int | None = None  # per round
    target_bpb: float | None = None


@dataclass(frozen=True, slots=True)
class ProposerChoice:
    """One proposer of a search: its name among the entry points, its share of the ideas, its options as typed."""

    name: str
    weight: float = 1.0
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """`backlog`: queued ideas kept ready (None: one for every slot). `claim_runs`: fresh runs of each baseline."""

    budget: SearchBudget
    proposers: tuple[ProposerChoice, ...]
    backlog: int | None = None
    claim_runs: int = 4
    seed: int = 0


class SearchState(StrEnum):
    RUNNING = "running"
    CLAIMING = "claiming"  # no new ideas; what is undecided is decided, then the claim is measured
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Search:
    """`active_s`: seconds in which it was being run. `reason`: why it is in its state, "" at first."""

    number: int
    tag: str
    settings: SearchSettings
    started_at: float
    active_s: float
    state: SearchState
    reason: str


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
    """Ideas wanted, to be made on `train_py`, the source of the baseline `base_id` (commit `base_commit`).

    `brief` is NOTES.md as text; `trials` every candidate so far, oldest first; `seed` is the ask's own. `ideas` is how
    many are wanted at most: more than one only of a proposer whose `ideas_per_ask` says so.
    """

    id: str  # like "p0012"
    base_id: str
    base_commit: str
    train_py: bytes
    brief: str
    trials: tuple[Trial, ...]
    round: int
    seed: int
    ideas: int = 1


@dataclass(frozen=True, slots=True)
class Proposed:
    """A changed train.py. `parents`: ids of candidates it builds on besides the base. `log`: what its author printed.

    `warning`: what its author did wrong that cost the idea nothing, in words.
    """

    ask_id: str
    train_py: bytes
    title: str
    hypothesis: str = ""
    theme: str = ""
    parents: tuple[str, ...] = ()
    log: str = ""
    warning: str = ""


class ProposalFailure(StrEnum):
    """Why an ask brought no idea: `refused` is an answer that breaks a rule, the others no answer."""

    CRASHED = "crashed"
    TIMED_OUT = "timed-out"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    MALFORMED = "malformed"
    EXHAUSTED = "exhausted"  # it will never have another idea: do not ask again
    UNUSABLE = "unusable"  # its command is not there or cannot be run: do not ask again
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class NoIdea:
    """`reason` is for people and for the next brief; `log` what the proposer printed."""

    ask_id: str
    trouble: ProposalFailure
    reason: str
    log: str = ""


@dataclass(frozen=True, slots=True)
class SeveralIdeas:
    """The answer to an ask that wanted several: each is admitted, or refused, alone. Not empty."""

    ask_id: str
    answers: tuple[Proposed | NoIdea, ...]


Answer = Proposed | NoIdea | SeveralIdeas


class Proposer(Protocol):
    """A source of ideas. Made once per search by its entry point; `ask` and `poll` return at once.

    Made by a dry run, too, which then closes it: nothing is written before the first ask. An attribute `ideas_per_ask`
    of more than 1 has each ask want so many.
    """

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
    """An ask on record. `candidate_id` is the new or the known one; `trouble` is a ProposalFailure, "" without one.

    `reason` is the failure's; without one, `Proposed.warning`.
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
