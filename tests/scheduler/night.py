"""A whole night of the lab in memory: decide() and order_runs() on a virtual clock, no ledger, no pool, no processes.

Ideas arrive all at once or as slots need them, each made from the baseline of that moment; near-misses are united when
no idea is waiting. Runs take about 330 s, crash early, or lose their slot. The night checks nothing itself: it keeps
what happened for the tests.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from scheduler.domain.decision import (
    PRESETS,
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
from scheduler.domain.lab import Board
from scheduler.domain.run import Queued, Run, RunKind, Running
from scheduler.policy.decide import baseline_is_hopeless, decide
from scheduler.policy.dispatch import order_runs
from scheduler.policy.union import near_miss_union
from tests.scheduler.policy_kit import BASE, applied, baseline, board, cancelled, finished, standing, with_candidate

RUN_S, LONGEST_S = 330.0, 30 * 24 * 3600.0
ATTEMPTS = 3  # slots a run may lose
FIRST_LINES = 1000  # of code in the first baseline, where lines are counted at all
KEPT = 0.9  # of the sum of its parts' effects: what a merge is worth


@dataclass(frozen=True)
class World:
    """`effects`: each idea's true score minus its own baseline's, in bpb. Shares are of runs.

    `saves`: lines of code each idea has fewer than its baseline (negative: more); 0 for all when empty.
    """

    effects: Sequence[float]
    sigma: float = 0.0005
    crash_share: float = 0.05
    lost_share: float = 0.02
    saves: Sequence[int] = ()


@dataclass(frozen=True)
class Moment:
    """The lab just after placing: what still waits and what runs."""

    at: float
    board: Board
    queued: tuple[Run, ...]
    running: tuple[Run, ...]
    started: tuple[Run, ...]


@dataclass(frozen=True)
class Entry:
    """One thing that happened, for whoever wants to follow the night: an idea, a result, a run taken back, a decision.

    A decision of None: nothing more was due. `waiting`: whether ideas were, and no near-misses were united therefore.
    `board` is the one that a decision was taken on.
    """

    kind: str
    candidate_id: str = ""
    score: float | None = None
    decision: Decision | None = None
    waiting: bool = False
    board: Board | None = None


@dataclass(order=True)
class _End:
    """When a run ends and how: with a score, with none (it crashed), or with its slot lost."""

    at: float
    number: int
    run: Run = field(compare=False)
    score: float | None = field(compare=False)
    lost: bool = field(compare=False)


@dataclass
class Night:
    """`backlog` new ideas are queued at most (None: all at once). `play` goes on until nothing is left to do."""

    world: World
    slots: int
    seed: int
    backlog: int | None = None
    gates: GateSettings = PRESETS["default"]
    now: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    log: list[Entry] = field(default_factory=list)
    busy_s: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.board = board(baseline(code_lines=FIRST_LINES if self.world.saves else 0), gates=self.gates)
        self.truth = {BASE: 1.0}
        self.queued: list[Run] = []
        self.ends: list[_End] = []
        self.proposed = self.numbered = 0

    @property
    def boards(self) -> Iterator[tuple[Board, Decision | None]]:
        """Every board of the night with what was decided on it."""
        return ((entry.board, entry.decision) for entry in self.log if entry.board is not None)

    @property
    def running(self) -> tuple[Run, ...]:
        return tuple(end.run for end in self.ends)

    @property
    def ideas_left(self) -> int:
        return len(self.world.effects) - self.proposed

    def play(self) -> Night:
        while self.now < LONGEST_S:
            self._propose()
            self._decide()
            self._place()
            if not self.ends:
                return self
            self._advance()
        raise AssertionError("a night without end")

    def _propose(self) -> None:
        while self.ideas_left and (self.backlog is None or self._waiting_ideas() < self.backlog):
            idea = standing(self._next_number(), pending_runs=1)
            base = self.board.baseline
            lines = base.code_lines - self.world.saves[self.proposed] if self.world.saves else 0
            self.board = with_candidate(self.board, replace(idea, base_id=base.candidate_id, code_lines=lines))
            self.truth[idea.candidate_id] = self.truth[base.candidate_id] + self.world.effects[self.proposed]
            self.proposed += 1
            self.log.append(Entry("idea", idea.candidate_id))
            self._queue(idea.candidate_id, RunKind.NEW)

    def _next_number(self) -> int:
        return len(self.board.standings) + 1

    def _waiting_ideas(self) -> int:
        return sum(run.kind is RunKind.NEW for run in self.queued)

    def _queue(self, ref: str, kind: RunKind) -> None:
        self.numbered += 1
        self.queued.append(Run(f"r{self.numbered:04d}", ref, kind, self.numbered, 0, "", Queued(self.now)))

    def _decide(self) -> None:
        assert not baseline_is_hopeless(self.board)
        waiting = bool(self._waiting_ideas())
        while decision := decide(self.board) or (None if waiting else near_miss_union(self.board, self.slots)):
            self.decisions.append((self.now, decision))
            self.log.append(Entry("decision", decision=decision, waiting=waiting, board=self.board))
            self._carry_out(decision)
        self.log.append(Entry("decision", waiting=waiting, board=self.board))

    def _carry_out(self, decision: Decision) -> None:
        self.board = applied(self.board, decision)
        match decision:
            case MeasureBaseline(base_id=ref):
                self._queue(ref, RunKind.BASELINE)
            case Replicate(candidate_id=ref) | Retry(candidate_id=ref):
                self._queue(ref, RunKind.REPEAT)
            case Discard(candidate_id=ref) | Shelve(candidate_id=ref):
                self._cancel(ref)
            case Promote(base_id=loser):
                self._cancel(loser)
            case Combine(parts=parts, base_id=base):
                for part in parts:
                    self._cancel(part)
                merged = self.board.merges[-1]
                assert merged.candidate_id is not None
                own = (self.truth[part] - self.truth[self.board.of(part).base_id or BASE] for part in merged.merged)
                self.truth[merged.candidate_id] = self.truth[base] + KEPT * sum(own)
                self._queue(merged.candidate_id, RunKind.UNION)

    def _cancel(self, ref: str) -> None:
        """Queued runs serve nobody any more; what already runs is recorded and never judged."""
        for run in [run for run in self.queued if run.candidate_id == ref]:
            self.queued.remove(run)
            self.board = cancelled(self.board, ref)
            self.log.append(Entry("cancelled", ref))

    def _place(self) -> None:
        free = self.slots - len(self.ends)
        chosen = order_runs(self.queued, self.running, self.slots, self.board)[:free]
        for run in chosen:
            self.queued.remove(run)
            self._start(run)
        self.moments.append(Moment(self.now, self.board, tuple(self.queued), self.running, chosen))

    def _start(self, run: Run) -> None:
        crashed = self._happens(self.world.crash_share) and run.candidate_id != BASE  # no night ends before it began
        lost = self._happens(self.world.lost_share)
        lasts = RUN_S * (self.random.uniform(0.05, 0.6) if crashed or lost else self.random.lognormvariate(0, 0.05))
        self.busy_s += lasts
        attempt = run.attempts + 1
        started = replace(run, attempts=attempt, state=Running(attempt, "slot", "boot", self.now))
        score = None if crashed else self.random.gauss(self.truth[run.candidate_id], self.world.sigma)
        heapq.heappush(self.ends, _End(self.now + lasts, int(run.id[1:]), started, score, lost))

    def _advance(self) -> None:
        end = heapq.heappop(self.ends)
        self.now = end.at
        if end.lost and end.run.attempts < ATTEMPTS:
            self.queued.insert(0, replace(end.run, state=Queued(self.now, "its slot was lost")))
        else:
            score = None if end.lost else end.score
            self.board = finished(self.board, end.run.candidate_id, score)
            self.log.append(Entry("result", end.run.candidate_id, score))

    def _happens(self, share: float) -> bool:
        return self.random.random() < share
