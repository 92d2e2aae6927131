"""A search: ideas, runs and promotions under one budget, with its settings, so that a restart continues it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Budget:
    """What ends a search; None = no such limit. The first limit reached ends it; the claim's runs come on top.

    `hours` is time in which the search was run, pauses and downtime left out; `runs` counts finished runs of every
    kind but claims; `rounds` × `ideas` counts new ideas; `target_bpb` is the current baseline's mean.
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

    budget: Budget
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
    """`active_s`: seconds in which somebody ran it. `reason`: why it is in its state, "" at first."""

    number: int
    tag: str
    settings: SearchSettings
    started_at: float
    active_s: float
    state: SearchState
    reason: str
