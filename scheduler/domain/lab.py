"""A lab: one tag of one repository, its contract and settings; a snapshot of it for the policies; its history."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from scheduler.domain.candidate import CandidateState, CandidateStats, FirstScore
from scheduler.domain.decision import GateSettings, Merge

SANDBOX_LEVELS = ("full", "weak", "off")  # the strictest first


@dataclass(frozen=True, slots=True)
class Lab:
    """`lab_id` is unique across repositories; `noise_prior_bpb` and `device` are the contract's.

    `sandbox` is what a candidate runs in (SANDBOX_LEVELS): scores of different levels are not compared.
    """

    tag: str
    lab_id: str
    branch: str
    contract_name: str
    contract_digest: str
    contract_json: str
    cache_digest: str
    device: str
    noise_prior_bpb: float
    gates: GateSettings
    created_at: float
    paused_at: float | None = None  # while set, nothing new is placed and no idea is asked for
    sandbox: str = "full"

    @property
    def noise_prior_seed_bpb(self) -> float:
        """The contract's; as much as the noise of runs side by side where it states none.

        Candidates have their seeds in common, so a part that is taken for none would move all of them the same way.
        """
        stated = json.loads(self.contract_json).get("noise_prior_seed_bpb")
        return self.noise_prior_bpb if stated is None else float(stated)

    @property
    def contract_words(self) -> str:
        """The contract as every screen names it: where the sandbox is not full, never without that."""
        return self.contract_name if self.sandbox == "full" else f"{self.contract_name} (sandbox: {self.sandbox})"


@dataclass(frozen=True)
class LabSnapshot:
    """Every candidate of a lab with its scores. The current baseline is one of `standings`.

    `merges` are all unions and ports there have been, the failed included, oldest first. `left_out` counts scored
    candidates of the current baseline that are not among `standings`, where only what decisions need is kept;
    `firsts_left_out` are the newest first scores of such candidates, of any baseline.
    """

    baseline_id: str
    first_baseline: bool
    standings: tuple[CandidateStats, ...]
    noise_prior_bpb: float
    gates: GateSettings
    merges: tuple[Merge, ...] = ()
    left_out: int = 0
    run_s: float | None = None  # how long the last scored runs held their slots, the median; None before there are any
    now: float | None = None  # seconds since the epoch; None where nothing waits for a time
    noise_prior_seed_bpb: float = 0.0
    firsts_left_out: tuple[FirstScore, ...] = ()

    @property
    def baseline(self) -> CandidateStats:
        return self.of(self.baseline_id)

    @cached_property
    def trials_on_baseline(self) -> int:
        """How many scored candidates were made from the current baseline."""
        return self.left_out + sum(s.base_id == self.baseline_id and bool(s.scores) for s in self.standings)

    @cached_property
    def undecided(self) -> tuple[CandidateStats, ...]:
        return tuple(s for s in self.standings if s.state.undecided)

    def of(self, candidate_id: str) -> CandidateStats:
        """Raises KeyError."""
        return self._by_id[candidate_id]

    def in_state(self, state: CandidateState) -> tuple[CandidateStats, ...]:
        return tuple(s for s in self.standings if s.state is state)

    @cached_property
    def _by_id(self) -> dict[str, CandidateStats]:
        return {standing.candidate_id: standing for standing in self.standings}


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the ledger's append-only history: `subject` left `from_state` ("" at its start) for `to_state`.

    A subject is a candidate ("c0007"), a run ("r0012"), the lab ("lab"), or an attempt whose result was refused
    ("r0012.1"). `at` is in seconds since the epoch.
    """

    number: int
    at: float
    tag: str
    subject: str
    from_state: str
    to_state: str
    reason: str
