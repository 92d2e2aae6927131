"""Everything the ledger knows of one lab: what every other view is built from.

A table is read when it is first asked for and then kept. Hold `ledger.snapshot()` until the views are made: other
processes may write meanwhile.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from scheduler.domain.candidate import Candidate, CandidateState, CandidateStats
from scheduler.domain.decision import (
    BusyCore,
    Claim,
    Combine,
    DecisionRecord,
    Effect,
    Merge,
    Noise,
    Promotion,
    SlotOffset,
)
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Lab, LabSnapshot
from scheduler.domain.run import Run
from scheduler.domain.search import Proposal
from scheduler.ledger import Ledger
from scheduler.ledger.runs import AttemptRow, RunCount
from scheduler.policy.drift import SHOWN, mean_error
from scheduler.policy.merging import Patches
from scheduler.policy.stats import effect_of, lab_noise, undecided_below
from scheduler.views import View
from scheduler.views.slots import Efficiency, SlotInterval, SlotTime, efficiency, slot_intervals, slot_time

T = TypeVar("T")


RECENT = 5  # decisions


@dataclass(frozen=True, slots=True)
class NoiseParts(View):
    """What adds to the noise of runs side by side: standard deviations in bpb, 0 where nothing does.

    `over_time_sd_bpb` is shared by runs within about `scale_s` seconds of each other. `p_unsteady` is the chance that
    there is anything over time or between slots; `slots` are those that are known to differ; `busy` is what a busy core
    adds, where that is known.
    """

    over_time_sd_bpb: float
    scale_s: float
    between_slots_sd_bpb: float
    between_seeds_sd_bpb: float
    p_unsteady: float
    slots: tuple[SlotOffset, ...] = ()
    busy: BusyCore | None = None


class Rows(dict[str, T], Generic[T]):
    """Rows by id; one that is not there yet is read alone."""

    def __init__(self, known: Iterable[tuple[str, T]], read: Callable[[str], T]) -> None:
        super().__init__(known)
        self._read = read

    def __missing__(self, ref: str) -> T:
        self[ref] = found = self._read(ref)
        return found


class LabFacts:
    """`whole`: candidates, runs and decisions are read a table at a time, else the rows of one candidate at a time.

    Every property may raise LedgerProblem when the ledger cannot be read.
    """

    def __init__(self, ledger: Ledger, lab: Lab, *, whole: bool = True) -> None:
        self.ledger, self.lab, self._whole = ledger, lab, whole

    @cached_property
    def board(self) -> LabSnapshot | None:
        """None while `arsched init` has not come as far as a baseline."""
        try:
            return self.ledger.board(self.lab.tag)
        except LabProblem:
            return None

    @cached_property
    def noise(self) -> Noise | None:
        """None without a baseline."""
        return lab_noise(self.board) if self.board else None

    @property
    def noise_parts(self) -> NoiseParts | None:
        """None where runs far apart scatter as those side by side do."""
        return noise_parts(self.noise) if self.noise else None

    @property
    def undecided_below_bpb(self) -> float | None:
        """The effect below which this machine is too unsteady to decide; None on a steadier one."""
        return undecided_below(self.noise, self.lab.noise_prior_bpb) if self.noise else None

    @cached_property
    def standings(self) -> dict[str, CandidateStats]:
        """By candidate id, in the order of submission."""
        return {s.candidate_id: s for s in self.board.standings} if self.board else {}

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """In the order of their submission."""
        return self.ledger.candidates.list(self.lab.tag)

    @cached_property
    def by_id(self) -> Rows[Candidate]:
        known = self.candidates if self._whole or "candidates" in self.__dict__ else ()
        return Rows(((c.id, c) for c in known), lambda ref: self.ledger.candidates.get(ref, self.lab.tag))

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """In the order of their queueing."""
        return self.ledger.runs.list(self.lab.tag)

    @cached_property
    def runs_of(self) -> Rows[tuple[Run, ...]]:
        """Candidate id -> its runs."""
        if not self._whole:
            return Rows((), self.ledger.runs.of_candidate)
        found: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            found[run.candidate_id].append(run)
        return Rows(((ref, tuple(runs)) for ref, runs in found.items()), lambda ref: ())

    @cached_property
    def queued(self) -> tuple[Run, ...]:
        """In the order in which equals are placed."""
        return self.ledger.runs.queued(self.lab.tag)

    @cached_property
    def running(self) -> tuple[Run, ...]:
        return self.ledger.runs.running(self.lab.tag)

    @cached_property
    def run_counts(self) -> tuple[RunCount, ...]:
        """By kind, state and what the result was."""
        return self.ledger.runs.counts(self.lab.tag)

    @cached_property
    def failures(self) -> dict[str, str]:
        """Candidate id -> status of its last finished run without a score, like "crash" or "timeout: train"."""
        return self.ledger.runs.last_failures(self.lab.tag)

    @cached_property
    def decisions(self) -> tuple[DecisionRecord, ...]:
        return self.ledger.decisions.history(self.lab.tag)

    @cached_property
    def recent_sentences(self) -> tuple[str, ...]:
        """Of the last decisions, oldest first."""
        return self.ledger.decisions.sentences(self.lab.tag, RECENT)

    @cached_property
    def decisions_of(self) -> Rows[tuple[DecisionRecord, ...]]:
        """Candidate id -> the decisions on it, oldest first, the merges it was a part of among them."""
        if not self._whole:
            return Rows((), self.ledger.decisions.of_candidate)
        found: dict[str, list[DecisionRecord]] = defaultdict(list)
        for record in self.decisions:
            for ref in _subjects(record):
                found[ref].append(record)
        return Rows(((ref, tuple(records)) for ref, records in found.items()), lambda ref: ())

    @cached_property
    def promotions(self) -> tuple[Promotion, ...]:
        return self.ledger.decisions.promotions(self.lab.tag)

    @cached_property
    def proposals(self) -> tuple[Proposal, ...]:
        """Every ask to a proposer, in the order of asking."""
        return self.ledger.proposals.list(self.lab.tag)

    @cached_property
    def claim(self) -> Claim | None:
        """The last of any search."""
        claims = self.ledger.claims.list(self.lab.tag)
        return claims[-1] if claims else None

    @property
    def merges(self) -> tuple[Merge, ...]:
        """All unions and ports, those that gave no program included, oldest first."""
        return self.board.merges if self.board else ()

    @cached_property
    def in_force(self) -> frozenset[str]:
        """Ids of the candidates whose patches are in the baseline's program, through merges too."""
        return Patches(self.board).in_force() if self.board else frozenset()

    @cached_property
    def shelf(self) -> tuple[Candidate, ...]:
        """Kept for what they did, or for a merge that nothing came of, and not in the baseline by now."""
        shelf = (s.candidate_id for s in self.standings.values() if s.state is CandidateState.SHELVED)
        return tuple(self.by_id[ref] for ref in shelf if ref not in self.in_force)

    @cached_property
    def near_misses(self) -> tuple[Candidate, ...]:
        """Those of the shelf that a union would take today, by all their runs."""
        bar = self.lab.gates.shelve_from
        return tuple(one for one in self.shelf if (effect := self.effect(one)) and effect.p_better >= bar)

    @cached_property
    def attempts(self) -> tuple[AttemptRow, ...]:
        """Every attempt there was, in the order of the runs' queueing."""
        return self.ledger.runs.all_attempts(self.lab.tag)

    @cached_property
    def intervals(self) -> tuple[SlotInterval, ...]:
        return slot_intervals(self.attempts)

    @cached_property
    def slot_time(self) -> SlotTime:
        return slot_time(self.intervals)

    @cached_property
    def efficiency(self) -> Efficiency:
        """Of the whole lab, claims' runs among the others."""
        unit = "GPU" if self.lab.device == "cuda" else "slot"
        return efficiency(unit, self.count_runs("finished"), len(self.promotions), self.intervals, self.slot_time)

    def count_runs(self, state: str) -> int:
        """Runs that are queued, running, finished or cancelled."""
        return sum(row.runs for row in self.run_counts if row.state == state)

    @property
    def baseline(self) -> Candidate | None:
        return self.by_id[self.board.baseline_id] if self.board else None

    def name(self, candidate_id: str) -> str:
        standing = self.standings.get(candidate_id)
        return standing.name if standing else candidate_id

    def mean_error(self, candidate_id: str) -> float | None:
        """Standard error of a candidate's mean in bpb; None without a score."""
        standing = self.standings.get(candidate_id)
        return mean_error(standing, self.noise) if self.noise and standing and standing.n else None

    def effect(self, candidate: Candidate) -> Effect | None:
        """What the idea did to the baseline it was made from, by all runs there are now and the noise now known.

        None without a score on both sides. The baseline it was judged against may be a later one: see its decisions.
        """
        base = self.standings.get(candidate.base_id or "")
        standing = self.standings.get(candidate.id)
        if self.noise is None or base is None or standing is None or not base.n or not standing.n:
            return None
        return effect_of(standing, base, self.noise)


def noise_parts(noise: Noise) -> NoiseParts | None:
    busy = noise.busy if noise.busy and noise.busy.differs else None
    if not (noise.drift or noise.offset or noise.seed_sd or busy):
        return None
    parts = (noise.drift, noise.scale_s, noise.offset, noise.seed_sd)
    differ = tuple(slot for slot in noise.slots if slot.differs)
    return NoiseParts(*parts, noise.p_unsteady if noise.drift or noise.offset else 0.0, differ, busy)


def describe_noise(sd_bpb: float, parts: NoiseParts | None) -> str:
    """`sd 0.00486 bpb`; on a machine that drifts `sd 0.00750 bpb side by side, 0.01200 over time`."""
    if parts is None:
        return f"sd {sd_bpb:.5f} bpb"
    over_time, between = parts.over_time_sd_bpb, parts.between_slots_sd_bpb
    slots = ", ".join(f"{slot.slot_id} {slot.offset_bpb:+.5f}" for slot in parts.slots)
    machine = [(over_time, "over time"), (between, f"between slots ({slots})" if slots else "between slots")]
    if parts.p_unsteady < SHOWN:
        machine = [(math.hypot(over_time, between), f"in doubt of the machine (chance {parts.p_unsteady:.2f})")]
    more = [*machine, (parts.between_seeds_sd_bpb, "between seeds")]
    busy = [f"{math.log(2) * parts.busy.added_bpb:+.5f} with half a core"] if parts.busy else []
    return ", ".join([f"sd {sd_bpb:.5f} bpb side by side", *(f"{sd:.5f} {words}" for sd, words in more if sd), *busy])


def _subjects(record: DecisionRecord) -> tuple[str, ...]:
    return record.decision.parts if isinstance(record.decision, Combine) else (record.candidate.candidate_id,)
