"""Searches of the shipped policies on a real ledger: every decision can be taken again from what the ledger kept."""

from __future__ import annotations

import heapq
import math
import random
import sqlite3
import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from scheduler.domain.candidate import Candidate, CandidateState, CandidateStats, Occasion
from scheduler.domain.decision import (
    PRESETS,
    Combine,
    Decision,
    DecisionRecord,
    Discard,
    GateSettings,
    Merge,
    Promote,
    Replicate,
    Shelve,
)
from scheduler.domain.lab import Lab, LabSnapshot
from scheduler.domain.run import RunKind
from scheduler.ledger import Ledger
from scheduler.policy.decide import decide, is_holding, promotion_waits_until
from scheduler.policy.dispatch import order_runs
from scheduler.policy.gates import judge_candidate, raised
from scheduler.policy.merging import near_miss_union
from scheduler.policy.siblings import round_closes, without_held
from scheduler.policy.stats import lab_noise
from tests.scheduler.ledger_kit import (
    SLOT,
    Clock,
    add_candidate,
    broken_invariants,
    merged_program,
    ok,
    open_ledger,
    result_of,
    start_lab,
)

CANDIDATES, SLOTS = 60, 8
SIGMA, GAIN = 0.005, 0.006  # bpb: of two runs of one program, and of true effects
SEEDS = (1, 2, 3, 4)
DRIFTING = 4  # the lab whose scores rise and fall together, by SWING over WAVE results
SWING, WAVE, LASTS_S = 6 * SIGMA, 30, 30.0
LENGTH_S = 300.0  # of a run on one of several slots


class Ticking(Clock):
    """No two things happen at the same time, so that what was before a decision differs from what came after."""

    def __call__(self) -> float:
        self.now += 1
        return self.now


@dataclass
class SimulatedLab:
    """Ideas with true effects, some made from older baselines, some crashing; results come in any order."""

    ledger: Ledger
    clock: Ticking
    rng: random.Random
    truth: dict[str, float] = field(default_factory=lambda: {"c0001": 1.90})
    ideas: int = 0
    swing: float = 0.0
    measured: int = 0
    gates: GateSettings = PRESETS["default"]

    def play(self) -> None:
        start_lab(self.ledger, scores=())
        while self.ideas < CANDIDATES or self.ledger.runs.queued("t"):
            queued = self.ledger.runs.queued("t")
            if self.ideas < CANDIDATES and (len(queued) < SLOTS // 2 or self.rng.random() < 0.3):
                self._submit()
            elif queued:
                self._finish_one()
            self._decide()

    def _submit(self) -> None:
        self.ideas += 1
        bases = [made.base_id for made in self.ledger.decisions.promotions("t")]
        late = bool(bases) and self.rng.random() < 0.3
        base_id = self.rng.choice(bases) if late else self.ledger.board("t").baseline_id
        candidate = add_candidate(self.ledger, f"idea-{self.ideas}", base_id=base_id)
        self.truth[candidate.id] = self.truth[base_id] + self.rng.gauss(0, GAIN)

    def _finish_one(self) -> None:
        run = self.rng.choice(self.ledger.runs.queued("t"))
        crashed = run.candidate_id != "c0001" and self.rng.random() < 0.1
        score = self.rng.gauss(self.truth[run.candidate_id], SIGMA)
        score += self.swing * math.sin(2 * math.pi * self.measured / WAVE)
        self.measured += 1
        attempt = self.ledger.runs.lease(run.id, SLOT, expires_at=math.inf)
        self.clock.now += LASTS_S
        assert attempt is not None
        self.ledger.runs.record(run.id, attempt, result_of("crash", reason="no memory") if crashed else ok(score))

    def _decide(self) -> None:
        while decision := decide(board := self._look()):
            self._apply(board, decision)
        near_misses = near_miss_union(board, SLOTS)
        if near_misses is not None:
            self._apply(board, near_misses)

    def _look(self) -> LabSnapshot:
        return self.ledger.board("t")

    def _apply(self, board: LabSnapshot, decision: Decision) -> None:
        more: dict[str, object] = {}
        if isinstance(decision, Promote):
            more = {"commit": "f" * 40}
        elif isinstance(decision, Combine):
            more = self._merge(board, decision)
        noise = lab_noise(board)
        self.ledger.decisions.apply("t", decision, noise=noise, sentence="as decided", **more)  # type: ignore[arg-type]

    def _merge(self, board: LabSnapshot, decision: Combine) -> dict[str, object]:
        """Most patches merge and keep most of their effect; the first one goes in, or none does."""
        merged = [part for n, part in enumerate(decision.parts) if n == 0 or self.rng.random() < 0.8]
        if self.rng.random() < 0.1:
            return {"problem": "nothing could be merged"}
        own = [self.truth[part] - self.truth[board.of(part).base_id or "c0001"] for part in merged]
        number = len(self.ledger.candidates.list("t")) + 1
        self.truth[f"c{number:04d}"] = self.truth[decision.base_id] + 0.9 * sum(own)
        return {"assembled": merged_program(f"merged-{number}", *merged)}


@dataclass
class LabOnSlots(SimulatedLab):
    """On slots that run side by side, for LENGTH_S more or less; some runs are lost with their slot.

    The machine's speed wanders and scores go with it. What is due waits for siblings, rounds and controls.
    """

    speed: float = 1.0
    ends: list[tuple[float, str, int]] = field(default_factory=list)  # when, run, attempt
    waited: Counter[str] = field(default_factory=Counter)

    def play(self) -> None:
        start_lab(self.ledger, scores=(), gates=self.gates)
        while True:
            self._decide()
            self._place()
            if not self.ends:
                return
            board = replace(self.ledger.board("t"), now=self.clock.now)
            until = promotion_waits_until(board)
            self.waited["siblings"] += until is not None
            self.waited["round"] += round_closes(board)
            self.clock.now = max(self.clock.now, min(until or math.inf, min(self.ends)[0]))
            if min(self.ends)[0] <= self.clock.now:
                self._end(*heapq.heappop(self.ends)[1:])

    def _place(self) -> None:
        while len(self.ends) < SLOTS:
            board = replace(self.ledger.board("t"), now=self.clock.now)
            queued = self.ledger.runs.queued("t")
            if self.ideas < CANDIDATES and not any(run.kind is RunKind.NEW for run in queued):
                self._submit()
                continue
            ordered = order_runs(without_held(queued) if is_holding(board) else queued, (), SLOTS, board)
            taken = {run.slot_id for run in self.ledger.runs.running("t")}
            slot = next(s for n in range(SLOTS) if (s := replace(SLOT, id=f"node/{n}")).id not in taken)
            if not ordered or (attempt := self.ledger.runs.lease(ordered[0].id, slot, math.inf)) is None:
                return
            end = self.clock.now + self.rng.choice([1.0, 1.0, 1.0, 0.5, 1.7]) * self.rng.gauss(LENGTH_S, 3)
            heapq.heappush(self.ends, (end, ordered[0].id, attempt))

    def _end(self, ref: str, attempt: int) -> None:
        run = self.ledger.runs.get(ref, "t")
        self.speed = min(max(self.speed + self.rng.gauss(0, 0.04), 0.6), 1.1)
        score = self.rng.gauss(self.truth[run.candidate_id], SIGMA) + SWING * (1 - self.speed)
        lots = self.rng.random()
        if lots < 0.08:
            self.ledger.runs.requeue(ref, attempt, "its slot was lost")
        elif lots < 0.16 and self.measured > SLOTS:
            self.ledger.runs.record(ref, attempt, result_of("crash", reason="no memory"))
        else:
            self.ledger.runs.record(
                ref, attempt, ok(score, machine={"speed": self.speed}, phases_s={"train": self.rng.uniform(20, 60)})
            )
        self.measured += 1

    def _look(self) -> LabSnapshot:
        return replace(self.ledger.board("t"), now=self.clock.now)


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("labs") / f"{seed}.db" for seed in SEEDS]
    for seed, path in zip(SEEDS, paths, strict=True):
        clock = Ticking()
        with open_ledger(path, clock) as ledger:
            SimulatedLab(ledger, clock, random.Random(seed), swing=SWING if seed == DRIFTING else 0.0).play()
    return paths


def test_the_labs_have_every_kind_of_decision_and_leave_nothing_undecided(labs: list[Path]) -> None:
    kinds: Counter[str] = Counter()
    for path in labs:
        with open_ledger(path) as ledger:
            history = ledger.decisions.history("t")
            kinds.update(record.kind for record in history)
            kinds.update("late" for record in history if record.own_base)
            kinds.update("union" for merge in ledger.board("t").merges if len(merge.merged) > 1)
            kinds.update("port" for merge in ledger.board("t").merges if len(merge.merged) == 1)
            kinds.update("half" for merge in ledger.board("t").merges if merge.halving)
            promotions = [record.candidate.candidate_id for record in history if record.kind == "promote"]
            assert [made.candidate_id for made in ledger.decisions.promotions("t")] == promotions
            assert ledger.board("t").undecided == ()
        assert broken_invariants(path) == []
    expected = {"promote", "replicate", "discard", "shelve", "combine", "measure-baseline"}
    assert kinds.keys() >= expected | {"late", "union", "port", "half"}, kinds


def test_the_drifting_lab_is_known_to_drift_and_its_baselines_are_measured_again(labs: list[Path]) -> None:
    with open_ledger(labs[SEEDS.index(DRIFTING)]) as ledger:
        history = ledger.decisions.history("t")
    assert sum(record.noise.drift > SIGMA for record in history) > len(history) / 4
    assert any(record.decision.reason.startswith("a control: ") for record in history)


def test_every_verdict_follows_from_its_own_record(labs: list[Path]) -> None:
    for path in labs:
        with open_ledger(path) as ledger:
            for record in ledger.decisions.history("t"):
                if isinstance(record.decision, Promote | Replicate | Discard | Shelve) and record.decision.effect:
                    # How many were tried on the baseline, and whether it was ported often enough, others say.
                    bars = [raised(record.gates, trials) for trials in range(CANDIDATES)]
                    basis = [(record.candidate, record.base, record.noise, gates, record.own_base) for gates in bars]
                    verdicts = [judge_candidate(*one, may_port=may) for one in basis for may in (True, False)]
                    assert record.decision in verdicts


def test_every_decision_follows_from_the_results_before_it(labs: list[Path]) -> None:
    """The board of that time, put together from the ledger's other tables, gives the same numbers and decision."""
    for path in labs:
        for record, board in _with_boards(path):
            subject = board.of(record.candidate.candidate_id)
            assert (subject, board.baseline) == (record.candidate, record.base)
            if record.own_base is not None:
                assert board.of(record.own_base.candidate_id) == record.own_base
            assert lab_noise(board) == record.noise
            taken_again = decide(board)
            if isinstance(record.decision, Combine) and taken_again is None:
                taken_again = near_miss_union(board, SLOTS)
            assert taken_again == record.decision


@pytest.mark.parametrize("preset", ["default", "strict", "bold", "rounds"])
def test_what_waited_for_siblings_a_round_or_a_control_follows_from_the_ledger_as_well(
    tmp_path: Path, preset: str
) -> None:
    waited, reasons, busy = Counter[str](), list[str](), 0
    for seed in range(7):
        path, clock = tmp_path / f"{seed}.db", Ticking()
        with open_ledger(path, clock) as ledger:
            played = LabOnSlots(ledger, clock, random.Random(seed), gates=PRESETS[preset])
            played.play()
            waited += played.waited
            assert ledger.board("t").undecided == () and played.ideas == CANDIDATES
        for record, board in _with_boards(path):
            subject = board.of(record.candidate.candidate_id)
            assert (subject, board.baseline) == (record.candidate, record.base)
            assert lab_noise(board) == record.noise
            busy += record.noise.busy is not None
            taken_again = decide(replace(board, now=record.decided_at))
            if isinstance(record.decision, Combine) and taken_again is None:
                taken_again = near_miss_union(board, SLOTS)
            assert taken_again == record.decision
            reasons.append(record.decision.reason)
    few = preset == "strict"  # promotions
    assert waited["siblings" if preset != "rounds" else "round"] > (1 if few else 3)
    assert busy > 0
    assert any("machine unlike its controls" in reason for reason in reasons)
    assert preset == "rounds" or any(reason.startswith("a control before") for reason in reasons)


def _with_boards(path: Path) -> list[tuple[DecisionRecord, LabSnapshot]]:
    with open_ledger(path) as ledger:
        candidates, history = ledger.candidates.list("t"), ledger.decisions.history("t")
        merges = ledger.board("t").merges
        lab = ledger.labs.get("t")
    past = Past(path, candidates)
    merged, boards = 0, []
    for record in history:
        boards.append((record, past.board(record, merges[:merged], lab)))
        merged += isinstance(record.decision, Combine)
    return boards


class Past:
    """What the ledger's history and results hold of any time, read by plain SQL. No board is read here."""

    def __init__(self, path: Path, candidates: Sequence[Candidate]) -> None:
        self._candidates = candidates
        with closing(sqlite3.connect(path)) as connection:
            self._events = connection.execute("SELECT at, subject, to_state FROM event ORDER BY number").fetchall()
            self._runs = connection.execute("SELECT number, candidate FROM run WHERE kind != 'claim'").fetchall()
            self._results = connection.execute(
                "SELECT result.number, run.candidate, result.val_bpb, result.status, result.reason,"
                " attempt.started_at, result.recorded_at, attempt.slot_id, run.seed, result.speed, result.train_s"
                " FROM result JOIN run ON run.number = result.run"
                " JOIN attempt ON attempt.run = result.run AND attempt.number = result.attempt"
                " WHERE run.kind != 'claim' ORDER BY result.number"
            ).fetchall()
            self._attempts = connection.execute("SELECT run, started_at, ended_at FROM attempt").fetchall()
            self._lengths = connection.execute(
                "SELECT result.number, result.recorded_at - attempt.started_at FROM result"
                " JOIN attempt ON attempt.run = result.run AND attempt.number = result.attempt"
                " WHERE result.val_bpb IS NOT NULL ORDER BY result.number"
            ).fetchall()

    def board(self, record: DecisionRecord, merges: Sequence[Merge], lab: Lab) -> LabSnapshot:
        states = {subject: to for at, subject, to in self._events if at < record.decided_at}
        there = [candidate for candidate in self._candidates if candidate.id in states]
        standings = tuple(self._standing(candidate, states, record) for candidate in there)
        baseline = next(s for s in standings if s.state is CandidateState.BASELINE)
        lengths = [seconds for number, seconds in self._lengths if number <= record.result_mark][-25:]
        return LabSnapshot(
            baseline_id=baseline.candidate_id,
            first_baseline=baseline.base_id is None,
            standings=standings,
            noise_prior_bpb=lab.noise_prior_bpb,
            noise_prior_seed_bpb=lab.noise_prior_seed_bpb,
            gates=record.gates,
            merges=tuple(merges),
            run_s=statistics.median(lengths) if lengths else None,
        )

    def _standing(self, candidate: Candidate, states: dict[str, str], record: DecisionRecord) -> CandidateStats:
        number, at = int(candidate.id[1:]), record.decided_at
        results = [row for row in self._results if row[0] <= record.result_mark and row[1] == number]
        failed = [(status, reason) for _, _, score, status, reason, *_ in results if score is None]
        scored = [(score, *when) for _, _, score, _, _, *when in results if score is not None]
        mine = [f"r{run:04d}" for run, owner in self._runs if owner == number]
        attempts = [(f"r{run:04d}", began) for run, began, ended in self._attempts if began < at < (ended or math.inf)]
        return CandidateStats(
            candidate_id=candidate.id,
            name=candidate.name,
            base_id=candidate.base_id,
            state=CandidateState(states[candidate.id]),
            scores=tuple(score for score, *_ in scored),
            occasions=tuple(Occasion(began + (ended - began) / 2, *where) for _, began, ended, *where in scored),
            running_since=tuple(sorted(began for run, began in attempts if run in mine)),
            pending_runs=sum(states.get(run) in ("queued", "running") for run in mine),
            failed_runs=len(failed),
            failure=": ".join(failed[-1]) if failed else "",
            origin=candidate.origin,
            code_lines=candidate.code_lines,
        )
