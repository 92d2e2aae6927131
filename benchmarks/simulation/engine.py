"""The promotion rule at work in memory, on a virtual clock: slots, runs and scores are made up, decisions are not.

decide(), order_runs(), pair_runs() and near_miss_union() are the shipped ones and see the same values as in a lab,
occasions too; this file only carries out what they say and keeps what happened. No ledger, no git, no processes. Ideas
are instant.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise
from typing import Protocol

from benchmarks.simulation.claim import claim_runs
from benchmarks.simulation.outcome import Judged, Outcome
from benchmarks.simulation.transitions import (
    applied,
    cancelled,
    finished,
    merged,
    requeued,
    started,
    with_candidate,
    without,
)
from scheduler.domain.candidate import CandidateState, CandidateStats, Occasion, Origin
from scheduler.domain.decision import (
    Claim,
    Combine,
    Decision,
    Discard,
    GateSettings,
    MeasureBaseline,
    Promote,
    Replicate,
    Retry,
    Shelve,
)
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Queued, Run, RunKind, Running, next_seed
from scheduler.policy.decide import baseline_is_hopeless, decide, is_holding, promotion_waits_until
from scheduler.policy.dispatch import free_soon, order_runs, pair_runs, slots_had
from scheduler.policy.merging import near_miss_union
from scheduler.policy.siblings import without_held
from scheduler.policy.stats import lab_noise, make_claim

PRIOR_BPB = 0.0005
FIRST = "c0001"
ATTEMPTS = 3  # slots a run may lose
RUN_S = 300.0  # one plain run, in the seconds that decisions are taken with


class End(Enum):
    """How a run ends."""

    SCORED = "scored"
    CRASHED = "crashed"
    LOST = "lost"  # with its slot


class World(Protocol):
    """Ideas and luck. Effects and scores in bpb, negative is better; the first baseline's true score is 0."""

    first_lines: int  # of code in the first baseline; 0: lines are not counted
    plain: float  # how long a plain run takes, in the world's own units of time

    def next_idea(self, gained: float) -> tuple[float, int] | None:
        """True effect on the current baseline, which is `gained` bpb better than the first, and lines of code saved."""

    def ported_effect(self, effects: Sequence[float], moved: Sequence[float]) -> float:
        """Effect of several patches together on a baseline `moved` bpb better than each one's own."""

    def merges(self, patches_met: int) -> bool:
        """Whether a patch goes into a text that this many others have changed since its own base."""

    def score(self, value: float, occasion: Occasion) -> float:
        """One measurement of a true score; seconds of the occasion count from the search's beginning."""

    def speed(self, at: float, slot_id: str) -> float | None:
        """What a run in whose middle it is `at` seconds measures as the machine's speed."""

    def ending(self, run: Run) -> tuple[float, End]:
        """After what time a run ends, and how."""


@dataclass(frozen=True)
class Placing:
    """The lab just after runs were placed: what still waits, what runs, and what of it was just started."""

    at: float
    lab: LabSnapshot
    queued: tuple[Run, ...]
    running: tuple[Run, ...]
    started: tuple[Run, ...]


@dataclass(frozen=True)
class Step:
    """One thing that happened: an "idea", a "result", a run "cancelled", a "decision", or a "union" of near-misses.

    A `decision` of None: none was due. `lab` is what it was taken on.
    """

    kind: str
    candidate_id: str = ""
    score: float | None = None
    decision: Decision | None = None
    lab: LabSnapshot | None = None
    at: float = 0.0


@dataclass
class Simulation:
    """`budget` in slot time, the claim's runs included; infinite: until nothing is left to do.

    `rounds`: decisions and new runs wait until all runs have ended. `backlog`: ideas queued ahead (None: all of them);
    with 0 one is asked for when a slot has nothing else to run. `forget`: settled candidates with one score at most are
    left out of the lab, which changes no decision (scheduler.policy.decide). `blind`: no occasion is known, so every
    score counts as measured at one time on one machine. `prior_bpb`, `prior_seed_bpb`: what the contract states of the
    noise.
    """

    world: World
    gates: GateSettings
    slots: int
    budget: float = math.inf
    rounds: bool = False
    claim_runs: int = 0
    backlog: int | None = 0
    forget: bool = True
    blind: bool = False
    prior_bpb: float = PRIOR_BPB
    prior_seed_bpb: float = 0.0
    now: float = 0.0
    log: list[Step] = field(default_factory=list)
    placings: list[Placing] = field(default_factory=list)

    def __post_init__(self) -> None:
        first = CandidateStats(FIRST, "first", None, CandidateState.BASELINE, code_lines=self.world.first_lines)
        self.lab = LabSnapshot(
            FIRST, True, (first,), self.prior_bpb, self.gates, run_s=RUN_S, noise_prior_seed_bpb=self.prior_seed_bpb
        )
        self.truth, self.effect, self.lineage = {FIRST: 0.0}, {FIRST: 0.0}, [FIRST]
        self.queued: list[Run] = []
        self._ends: list[tuple[float, int, Run, End]] = []  # a heap
        self._begun: Counter[RunKind] = Counter()
        self._seeds: defaultdict[str, list[int]] = defaultdict(list)
        self._idle = 0.0  # slot time
        self._runs = 0
        self._candidates = 1

    @property
    def decided(self) -> Iterable[tuple[LabSnapshot, Decision | None]]:
        """Every snapshot that was decided on, with the decision."""
        return ((step.lab, step.decision) for step in self.log if step.lab is not None)

    @property
    def decisions(self) -> list[Decision]:
        return [step.decision for step in self.log if step.decision is not None]

    def play(self) -> Simulation:
        ends_at = (self.budget - 2 * self.claim_runs) / self.slots
        while True:
            self._queue_ideas()
            assert not baseline_is_hopeless(self.lab)
            self.lab = replace(self.lab, now=self._seconds(self.now))
            while (decision := decide(self.lab)) is not None:
                self._log_decision("decision", decision)
                self._carry_out(decision)
            self._log_decision("decision", None)
            if self.now < ends_at - 1e-9:
                self._place()
            if not self._ends:
                return self
            then = max(end for end, *_ in self._ends) if self.rounds else self._next_time()
            self._idle += self._idle_until(min(then, ends_at))
            self.now = then
            if then > ends_at + 1e-9:
                return self
            while self._ends and self._ends[0][0] <= self.now + 1e-9:
                ended, _, run, how = heapq.heappop(self._ends)
                self._finish(ended, run, how)

    def _next_time(self) -> float:
        """When the next run ends, or a promotion has waited long enough."""
        wait, ends = promotion_waits_until(self.lab), self._ends[0][0]
        return ends if wait is None else min(ends, wait / RUN_S * self.world.plain + 1e-9)

    def _idle_until(self, then: float) -> float:
        """Slot time from now to then in which no run goes on."""
        return sum(max(0.0, then - end) for end, *_ in self._ends) + (self.slots - len(self._ends)) * (then - self.now)

    def outcome(self) -> Outcome:
        """The claim's runs are made now, on fresh seeds."""
        final, first, now = self.lineage[-1], self.lab.of(FIRST), self.lab.baseline
        claimed = first.mean - now.mean if first.scores and now.scores else 0.0
        claim = self._claim(final)
        false = sum(self.truth[new] >= self.truth[old] for old, new in pairwise(self.lineage))
        unions = sum(self.lab.of(ref).origin is Origin.UNION for ref in self.lineage)
        displaced = sum(self.lab.of(new).base_id != old for old, new in pairwise(self.lineage))
        counts = (len(self.lineage) - 1, false, unions, displaced, sum(len(m.merged) == 1 for m in self.lab.merges))
        idle = self._idle / (self.slots * self.now) if self.now else 0.0
        return Outcome(-self.truth[final], claimed, claim, self._begun, *counts, idle, *self._judged())

    def _claim(self, final: str) -> Claim:
        sides = {ref: CandidateStats(ref, ref, None, CandidateState.BASELINE) for ref in (FIRST, final)}
        if final != FIRST:
            for start, run, slot_id in claim_runs(tuple(sides), self.claim_runs, self._slot_ids()):
                score, occasion = self._measure(run, self.now + start * self.world.plain, self.world.plain, slot_id)
                side = sides[run.candidate_id]
                occasions = () if self.blind else (*side.occasions, occasion)
                sides[run.candidate_id] = replace(side, scores=(*side.scores, score), occasions=occasions)
        return make_claim(sides[FIRST], sides[final], lab_noise(self.lab), self.gates.prior_df)

    def _judged(self) -> tuple[tuple[Judged, ...], tuple[Judged, ...]]:
        first: dict[str, Judged] = {}
        won: list[Judged] = []
        for decision in self.decisions:
            if isinstance(decision, Promote | Replicate | Discard | Shelve) and decision.effect is not None:
                true = self.truth[decision.candidate_id] - self.truth[decision.base_id]
                judged = Judged(decision.effect, true)
                first.setdefault(decision.candidate_id, judged)
                if isinstance(decision, Promote):
                    won.append(judged)
        return tuple(first.values()), tuple(won)

    def _seconds(self, time: float) -> float:
        return time / self.world.plain * RUN_S

    def _slot_ids(self) -> tuple[str, ...]:
        return tuple(f"sim/slot{number}" for number in range(self.slots))

    def _measure(self, run: Run, start: float, lasts: float, slot_id: str) -> tuple[float, Occasion]:
        at = self._seconds(start + lasts / 2)
        occasion = Occasion(at, slot_id, run.seed, self.world.speed(at, slot_id))
        return self.world.score(self.truth[run.candidate_id], occasion), occasion

    def _queue_ideas(self) -> None:
        while self.backlog is None or sum(run.kind is RunKind.NEW for run in self.queued) < self.backlog:
            if (run := self._propose()) is None:
                return
            self.queued.append(run)

    def _propose(self) -> Run | None:
        base = self.lab.baseline
        idea = self.world.next_idea(-self.truth[base.candidate_id])
        if idea is None:
            return None
        ref = self._new_id()
        self.effect[ref], saved = idea
        self.truth[ref] = self.truth[base.candidate_id] + self.effect[ref]
        lines = base.code_lines and base.code_lines - saved
        new = CandidateStats(ref, ref, base.candidate_id, CandidateState.OPEN, (), 1, code_lines=lines)
        self.lab = with_candidate(self.lab, new)
        self.log.append(Step("idea", ref, at=self.now))
        return self._run(ref, RunKind.NEW)

    def _log_decision(self, kind: str, decision: Decision | None) -> None:
        self.log.append(Step(kind, decision=decision, lab=self.lab, at=self.now))

    def _place(self) -> None:
        running = tuple(run for *_, run, _ in self._ends)
        holding = is_holding(self.lab)
        may = without_held(self.queued) if holding else self.queued
        free, usable = self._free_slots(), self._slot_ids()
        chosen = order_runs(may, running, self.slots, self.lab)[: 2 * self.slots]  # of more, none gets a slot
        had = slots_had(chosen, running, self.lab)
        pairs = pair_runs(chosen, free, usable, {}, had, free_soon(running, self.now, self.world.plain))
        for run, _ in pairs:
            self.queued.remove(run)
        started = [self._start(run, slot_id) for run, slot_id in pairs]
        while not holding and (free := self._free_slots()) and (next_run := self._next_union() or self._propose()):
            started.append(self._start(next_run, free[0]))
        running = tuple(run for *_, run, _ in self._ends)
        self.placings.append(Placing(self.now, self.lab, tuple(self.queued), running, tuple(started)))

    def _next_union(self) -> Run | None:
        """A union of near-misses, when the rule has one to try and it merges."""
        while (union := near_miss_union(self.lab, self.slots)) is not None:
            self._log_decision("union", union)
            self._combine(union)
            if self.lab.merges[-1].candidate_id is not None:
                return self.queued.pop()
        self._log_decision("union", None)
        return None

    def _start(self, run: Run, slot_id: str) -> Run:
        lasts, how = self.world.ending(run)
        self._begun[run.kind] += 1
        attempt = run.attempts + 1
        run = replace(run, attempts=attempt, state=Running(attempt, slot_id, "boot", self.now))
        heapq.heappush(self._ends, (self.now + lasts, self._begun.total(), run, how))
        self.lab = started(self.lab, run.candidate_id, self._seconds(self.now))
        return run

    def _free_slots(self) -> list[str]:
        taken = {run.slot_id for *_, run, _ in self._ends}
        return [slot_id for slot_id in self._slot_ids() if slot_id not in taken]

    def _finish(self, ended: float, run: Run, how: End) -> None:
        ref, state = run.candidate_id, run.state
        assert isinstance(state, Running)
        since = self._seconds(state.started_at)
        if how is End.LOST and run.attempts < ATTEMPTS:
            self.queued.insert(0, replace(run, state=Queued(self.now, "its slot was lost")))
            self.lab = requeued(self.lab, ref, since)
            return
        score = occasion = None
        if how is End.SCORED:
            score, occasion = self._measure(run, state.started_at, ended - state.started_at, state.slot_id)
        self.lab = finished(self.lab, ref, score, occasion=None if self.blind else occasion, since=since)
        self.log.append(Step("result", ref, score, at=self.now))
        self._forget_if_settled(ref)

    def _carry_out(self, decision: Decision) -> None:
        if isinstance(decision, Combine):
            return self._combine(decision)
        self.lab = applied(self.lab, decision)
        match decision:
            case Promote(candidate_id=ref, base_id=loser):
                self.lineage.append(ref)
                self._cancel(loser)
            case MeasureBaseline(base_id=ref):
                self.queued.append(self._run(ref, RunKind.BASELINE))
            case Replicate(candidate_id=ref) | Retry(candidate_id=ref):
                self.queued.append(self._run(ref, RunKind.REPEAT))
            case Discard(candidate_id=ref) | Shelve(candidate_id=ref):
                self._cancel(ref)
                self._forget_if_settled(ref)
        return None

    def _combine(self, decision: Combine) -> None:
        went_in: list[str] = []
        for part in decision.parts:  # each meets the promotions since its base and the parts merged before it
            since = len(self.lineage) - 1 - self.lineage.index(self.lab.of(part).base_id or FIRST)
            if self.world.merges(since + len(went_in)):
                went_in.append(part)
        ref = self._new_id() if went_in else ""
        self.lab = merged(self.lab, decision, tuple(went_in), ref)
        for part in decision.parts:
            self._cancel(part)
        if ref:
            base = self.truth[decision.base_id]
            moved = [self.truth[self.lab.of(part).base_id or FIRST] - base for part in went_in]
            self.effect[ref] = self.world.ported_effect([self.effect[part] for part in went_in], moved)
            self.truth[ref] = base + self.effect[ref]
            self.queued.append(self._run(ref, RunKind.UNION))

    def _cancel(self, ref: str) -> None:
        """Take back its queued runs, as the ledger does; what already runs is recorded and never judged."""
        for run in [run for run in self.queued if run.candidate_id == ref]:
            self.queued.remove(run)
            self.lab = cancelled(self.lab, ref)
            self.log.append(Step("cancelled", ref, at=self.now))

    def _forget_if_settled(self, ref: str) -> None:
        stats = self.lab.of(ref)
        lost = stats.state in (CandidateState.DISCARDED, CandidateState.FAILED)
        if self.forget and lost and stats.n < 2 and not stats.pending_runs and not stats.origin.merged:
            self.lab = without(self.lab, ref)

    def _run(self, ref: str, kind: RunKind) -> Run:
        self._runs += 1
        again = kind is RunKind.BASELINE or self.lab.noise_prior_seed_bpb > 0
        within = self.gates.max_runs if again else 0
        seed = next_seed(had := self._seeds[ref], (), (), within)
        had.append(seed)
        return Run(f"r{self._runs:04d}", ref, kind, seed, 0, "", Queued(self.now))

    def _new_id(self) -> str:
        self._candidates += 1
        return f"c{self._candidates:04d}"
