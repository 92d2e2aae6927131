"""A night on a virtual clock: slots, runs and scores are made up, every decision is the shipped policy's.

decide(), order_runs() and near_miss_union() see the same values as in a lab; this file only carries out what they say.
Left out of the board are settled candidates with a single score, which change no decision (scheduler.policy.decide).
Proposals are free and instant: one for every slot that nothing else wants.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace

from benchmarks.simulation.worlds import World
from scheduler.domain.candidate import CandidateState, Origin, Standing
from scheduler.domain.claim import Claim
from scheduler.domain.decision import (
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
from scheduler.domain.merge import Merge
from scheduler.domain.run import Queued, Run, RunKind
from scheduler.policy.claim import make_claim
from scheduler.policy.decide import decide
from scheduler.policy.dispatch import order_runs
from scheduler.policy.noise import board_noise
from scheduler.policy.union import near_miss_union

PRIOR_BPB = 0.0005
FIRST = "c0001"
_WAITING = Queued(0.0)
_KINDS = {Replicate: RunKind.REPEAT, Retry: RunKind.REPEAT}


@dataclass
class Tally:
    """What happened. `false`: promotions that were not truly better; `harm_bpb`: what those cost."""

    new: int = 0
    repeats: int = 0
    baselines: int = 0
    unions: int = 0
    promotions: int = 0
    false: int = 0
    harm_bpb: float = 0.0
    unions_promoted: int = 0


@dataclass(frozen=True)
class Outcome:
    """A night's end. Gains are positive bpb; `claimed` is the running total of the baselines' own runs."""

    gain: float
    claimed: float
    claim: Claim
    tally: Tally


class Night:
    """`budget` slot-units in all, divided by the slots; in rounds, decisions and new runs wait for the whole round."""

    def __init__(
        self, world: World, gates: GateSettings, *, slots: int, budget: int, rounds: bool = False, claim_runs: int = 4
    ) -> None:
        self.world, self.gates, self.slots, self.rounds = world, gates, slots, rounds
        self.claim_runs = claim_runs
        self.ends_at = (budget - 2 * claim_runs) / slots
        self.tally = Tally()
        self.truth = {FIRST: 0.0}
        self.effect: dict[str, float] = {FIRST: 0.0}
        self.generation = {FIRST: 0}  # promotions before its base
        self.lineage = [FIRST]
        self.standings = {FIRST: Standing(FIRST, FIRST, None, CandidateState.BASELINE)}
        self.merges: list[Merge] = []
        self.queued: list[Run] = []
        self.going: list[tuple[float, int, Run, bool]] = []
        self.numbered = self.candidates = 1
        self.left_out = 0  # forgotten scored candidates of the current baseline

    def play(self) -> Outcome:
        now, fill = 0.0, True
        self._decide()
        while True:
            if fill and now < self.ends_at - 1e-9:
                self._fill(now)
            if not self.going:
                break
            now = max(end for end, *_ in self.going) if self.rounds else self.going[0][0]
            if now > self.ends_at + 1e-9:
                break
            while self.going and self.going[0][0] <= now + 1e-9:
                self._finish(*heapq.heappop(self.going)[2:])
            self._decide()
        return self._outcome()

    def board(self) -> Board:
        return Board(
            self.lineage[-1], len(self.lineage) == 1, tuple(self.standings.values()), PRIOR_BPB, self.gates,
            tuple(self.merges), self.left_out,
        )  # fmt: skip

    def _fill(self, now: float) -> None:
        running = [run for *_, run, _ in self.going]
        free = self.slots - len(running)
        if self.queued:
            for run in order_runs(self.queued, running, self.slots, self.board())[:free]:
                self.queued.remove(run)
                self._start(run, now)
        while len(self.going) < self.slots:
            self._start(self._next_union() or self._propose(), now)

    def _next_union(self) -> Run | None:
        """A union of near-misses, when the rule has one to try and it merges."""
        if not self.gates.combine:
            return None
        while (union := near_miss_union(self.board(), self.slots)) is not None:
            before = len(self.queued)
            self._combine(union)
            if len(self.queued) > before:
                return self.queued.pop()
        return None

    def _propose(self) -> Run:
        base = self.lineage[-1]
        ref = self._new_id()
        self.effect[ref] = self.world.next_effect(-self.truth[base])
        self.truth[ref] = self.truth[base] + self.effect[ref]
        self.standings[ref] = Standing(ref, ref, base, CandidateState.OPEN, (), 1)
        return self._run(ref, RunKind.NEW)

    def _start(self, run: Run, now: float) -> None:
        lasts, crashed = self.world.duration(run.kind is RunKind.NEW)
        self.tally.new += run.kind is RunKind.NEW
        self.tally.repeats += run.kind is RunKind.REPEAT
        self.tally.baselines += run.kind is RunKind.BASELINE
        self.tally.unions += run.kind is RunKind.UNION
        self.numbered += 1
        heapq.heappush(self.going, (now + lasts, self.numbered, run, crashed))

    def _finish(self, run: Run, crashed: bool) -> None:
        was = self.standings.get(run.candidate_id)
        score = None if crashed else self.world.score(self.truth[run.candidate_id])
        if was is None:
            return
        pending = was.pending_runs - 1
        if score is None:
            new = replace(was, pending_runs=pending, failed_runs=was.failed_runs + 1, failure="crash")
        else:
            new = replace(was, pending_runs=pending, scores=(*was.scores, score))
        self.standings[run.candidate_id] = new
        self._forget_if_settled(new)

    def _decide(self) -> None:
        while (decision := decide(self.board())) is not None:
            self._carry_out(decision)

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Promote(candidate_id=ref):
                self._promote(ref)
            case MeasureBaseline(base_id=ref):
                self._queue(ref, RunKind.BASELINE)
            case Replicate(candidate_id=ref) | Retry(candidate_id=ref):
                self._move(ref, CandidateState.CONTENDER)
                self._queue(ref, RunKind.REPEAT)
            case Shelve(candidate_id=ref):
                self._settle(ref, CandidateState.SHELVED)
            case Discard(candidate_id=ref, effect=effect):
                self._settle(ref, CandidateState.DISCARDED if effect else CandidateState.FAILED)
            case Combine():
                self._combine(decision)

    def _promote(self, ref: str) -> None:
        old = self.lineage[-1]
        worse = self.truth[ref] - self.truth[old]
        self.tally.promotions += 1
        self.tally.unions_promoted += self.standings[ref].origin is Origin.UNION
        self.tally.false += worse >= 0
        self.tally.harm_bpb += max(0.0, worse)
        self._move(old, CandidateState.PROMOTED)
        self._move(ref, CandidateState.BASELINE)
        self.queued = [run for run in self.queued if run.candidate_id != old]
        self.lineage.append(ref)
        self.left_out = 0

    def _combine(self, decision: Combine) -> None:
        for part in decision.parts:
            if self.standings[part].state.undecided:
                self._settle(part, CandidateState.SHELVED)
        merged = self._merge_texts(decision.parts)
        ref = self._new_id() if merged else None
        number = len(self.merges) + 1
        self.merges.append(
            Merge(number, decision.base_id, decision.parts, merged, ref, decision.halving, decision.predicted)
        )
        if ref is None:
            return
        base = self.lineage[-1]
        own = [self.standings[part].base_id or FIRST for part in merged]
        moved = [self.truth[base_id] - self.truth[base] for base_id in own]
        self.effect[ref] = self.world.ported_effect([self.effect[part] for part in merged], moved)
        self.truth[ref] = self.truth[base] + self.effect[ref]
        origin = Origin.UNION if len(merged) > 1 else Origin.PORT
        self.standings[ref] = Standing(ref, ref, base, CandidateState.CONTENDER, (), origin=origin)
        self._queue(ref, RunKind.UNION)

    def _merge_texts(self, parts: Iterable[str]) -> tuple[str, ...]:
        """A part meets the promotions since its base and the parts merged before it."""
        merged: list[str] = []
        for part in parts:
            since = len(self.lineage) - 1 - self.lineage.index(self.standings[part].base_id or FIRST)
            if self.world.merges(since + len(merged)):
                merged.append(part)
        return tuple(merged)

    def _queue(self, ref: str, kind: RunKind) -> None:
        was = self.standings[ref]
        self.standings[ref] = replace(was, pending_runs=was.pending_runs + 1)
        self.queued.append(self._run(ref, kind))

    def _run(self, ref: str, kind: RunKind) -> Run:
        self.numbered += 1
        return Run(str(self.numbered), ref, kind, self.numbered, 0, "", _WAITING)

    def _new_id(self) -> str:
        self.candidates += 1
        return f"c{self.candidates:04d}"

    def _move(self, ref: str, state: CandidateState) -> None:
        if self.standings[ref].state is not state:
            self.standings[ref] = replace(self.standings[ref], state=state)

    def _settle(self, ref: str, state: CandidateState) -> None:
        """Queued runs of a settled candidate are cancelled, as the ledger does."""
        dropped = [run for run in self.queued if run.candidate_id == ref]
        if dropped:
            self.queued = [run for run in self.queued if run.candidate_id != ref]
            was = self.standings[ref]
            self.standings[ref] = replace(was, pending_runs=was.pending_runs - len(dropped))
        self._move(ref, state)
        self._forget_if_settled(self.standings[ref])

    def _forget_if_settled(self, standing: Standing) -> None:
        lost = standing.state in (CandidateState.DISCARDED, CandidateState.FAILED)
        if lost and standing.n < 2 and not standing.pending_runs and not standing.origin.merged:
            del self.standings[standing.candidate_id]
            self.left_out += standing.n > 0 and standing.base_id == self.lineage[-1]

    def _outcome(self) -> Outcome:
        final, board = self.lineage[-1], self.board()
        first, now = board.of(FIRST), board.baseline
        claimed = first.mean - now.mean if first.scores and now.scores else 0.0
        scores: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
        if final != FIRST and self.claim_runs:
            scores = tuple(self.world.scores(self.truth[ref], self.claim_runs) for ref in (FIRST, final))  # type: ignore[assignment]
        claim = make_claim(FIRST, final, *scores, board_noise(board))
        return Outcome(-self.truth[final], claimed, claim, self.tally)
