"""A process that lives a lab's life in the ledger as fast as it can, and may kill itself at any instruction.

Started by the tests in processes of their own. What was committed it writes to a file, one line each.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TextIO

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import Assembled, Combine, Decision, Discard, MeasureBaseline, Promote, Replicate, Shelve
from scheduler.domain.errors import CandidateRejected, LedgerProblem
from scheduler.domain.run import RunKind, infra_result
from scheduler.ledger import Ledger
from scheduler.ledger.db import Database
from scheduler.ledger.ledger import migrate
from tests.scheduler.ledger_kit import (
    CHANGED,
    NOISE,
    SLOT,
    add_candidate,
    effect,
    merged_program,
    ok,
    open_ledger,
    result_of,
)

INSTRUCTIONS = 10  # SQLite's, between two looks at whether to die
LEASE_EXPIRES_AT = 2000.0


def live_until_killed(path: Path, report: Path, seed: int, dies_after: int) -> None:
    """Work until SQLite has been at it for `dies_after` looks, then end by SIGKILL, in the middle of whatever it is."""
    with open_ledger(path, through_to_disk=True) as ledger, report.open("a", buffering=1) as out:
        _die_after(ledger._database, dies_after)
        life = Life(ledger, random.Random(seed), f"{seed}", out)
        while True:
            life.step()


def migrate_until_killed(path: Path, dies_after: int) -> None:
    """Make a ledger, or change one, but not to the end."""
    database = Database(path)
    _die_after(database, dies_after)
    migrate(database, 1.0, CHANGED)


def _die_after(database: Database, looks: int) -> None:
    counted = itertools.count(1)

    def look() -> int:
        if next(counted) >= looks:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    database._connection.set_progress_handler(look, INSTRUCTIONS)


def die_in_a_transaction(path: Path, candidate_id: str) -> None:
    with open_ledger(path) as ledger, ledger._database.transaction():
        (run,) = ledger.runs.of_candidate(candidate_id)
        ledger.runs.lease(run.id, SLOT, LEASE_EXPIRES_AT)
        os.kill(os.getpid(), signal.SIGKILL)


class Life:
    """Random moves of a lab; each is reported once it is committed."""

    def __init__(self, ledger: Ledger, rng: random.Random, prefix: str, out: TextIO) -> None:
        self._ledger, self._rng, self._prefix, self._out = ledger, rng, prefix, out
        self._names = itertools.count()

    def step(self) -> None:
        self._rng.choice(
            [self._submit, self._lease, self._lease, self._end, self._end, self._end, self._decide, self._combine]
        )()

    def _report(self, *words: object) -> None:
        print(*words, file=self._out)

    def _submit(self) -> None:
        base_id = self._ledger.board("t").baseline_id
        name = f"by-{self._prefix}-{next(self._names)}"
        candidate = add_candidate(self._ledger, name, base_id=base_id, runs=self._rng.choice((1, 1, 3)))
        self._report("candidate", candidate.id)

    def _lease(self) -> None:
        queued = self._ledger.runs.queued("t")
        if queued:
            run = self._rng.choice(queued)
            attempt = self._ledger.runs.lease(run.id, SLOT, LEASE_EXPIRES_AT)
            if attempt is not None:
                self._report("lease", run.id, attempt)

    def _end(self) -> None:
        running = self._ledger.runs.running("t")
        if running:
            run = self._rng.choice(running)
            self._rng.choice([self._record, self._record, self._record, self._lose, self._cancel])(run.id, run.attempts)

    def _record(self, run_id: str, attempt: int) -> None:
        result = self._rng.choice([ok(self._rng.gauss(1.9, 0.01)), result_of("crash", reason="exit status 1")])
        if self._ledger.runs.record(run_id, attempt, result):
            self._report("result", run_id, attempt)

    def _lose(self, run_id: str, attempt: int) -> None:
        self._ledger.runs.requeue(run_id, attempt, "lost", result=self._rng.choice([None, infra_result("gpu", "gone")]))
        self._report("end", run_id, attempt)

    def _cancel(self, run_id: str, attempt: int) -> None:
        if self._ledger.runs.cancel(run_id, "cancelled"):
            self._report("end", run_id, attempt)

    def _decide(self) -> None:
        board = self._ledger.board("t")
        due = [s for s in board.undecided if s.n and board.baseline.n]
        if not due:
            return
        of = self._rng.choice(due)
        numbers = effect(of.n, board.baseline.n)
        decision = self._rng.choice([Promote, Replicate, Discard, Shelve])(
            of.candidate_id, board.baseline_id, numbers, "as decided"
        )
        self._apply(decision)
        if isinstance(decision, Promote):
            self._apply(MeasureBaseline(of.candidate_id, "one run is not enough"))

    def _combine(self) -> None:
        board = self._ledger.board("t")
        able = [s.candidate_id for s in (*board.undecided, *board.in_state(CandidateState.SHELVED))]
        if not able:
            return
        parts = tuple(self._rng.sample(able, min(len(able), self._rng.choice((1, 2, 3)))))
        merge = Combine(board.baseline_id, parts, 0, -0.01, "as decided")
        if self._rng.random() < 0.3:
            self._apply(merge, problem="nothing could be merged")
        else:
            made = merged_program(f"union-{self._prefix}-{next(self._names)}", *parts)
            self._apply(merge, assembled=made)
            self._report("candidate", self._ledger.candidates.get(made.name, "t").id)

    def _apply(self, decision: Decision, assembled: Assembled | None = None, problem: str = "") -> None:
        self._ledger.decisions.apply(
            *("t", decision), noise=NOISE, sentence="as decided", commit="f" * 40, assembled=assembled, problem=problem
        )
        self._report("decision", type(decision).__name__)


# Races: each process waits at the barrier, then all do the same thing at once.


def open_at_once(path: Path, report: Path, barrier: Barrier) -> None:
    barrier.wait()
    with open_ledger(path) as ledger, report.open("w") as out:
        print(len(ledger.labs.all()), file=out)


def lease_all(path: Path, report: Path, barrier: Barrier) -> None:
    with open_ledger(path) as ledger, report.open("w") as out:
        queued = ledger.runs.queued("t")
        barrier.wait()
        for run in queued:
            if ledger.runs.lease(run.id, SLOT, LEASE_EXPIRES_AT) is not None:
                print(run.id, file=out)


def record_all(path: Path, report: Path, barrier: Barrier) -> None:
    with open_ledger(path) as ledger, report.open("w") as out:
        running = ledger.runs.running("t")
        barrier.wait()
        for run in running:
            if ledger.runs.record(run.id, run.attempts, ok(1.9)):
                print(run.id, file=out)


def add_same_names(path: Path, report: Path, barrier: Barrier) -> None:
    with open_ledger(path) as ledger, report.open("w") as out:
        barrier.wait()
        for number in range(20):
            try:
                add_candidate(ledger, f"name-{number}", runs=2)
            except CandidateRejected:
                continue
            ledger.runs.add("c0001", RunKind.BASELINE, "one more")
            print(f"name-{number}", file=out)


def move_all(path: Path, report: Path, barrier: Barrier) -> None:
    with open_ledger(path) as ledger, report.open("w") as out:
        candidates = ledger.candidates.list("t")[1:]
        barrier.wait()
        for candidate in candidates:
            if ledger.candidates.set_state(candidate.id, CandidateState.OPEN, CandidateState.DISCARDED, "first"):
                print(candidate.id, file=out)


def combine_at_once(path: Path, report: Path, barrier: Barrier) -> None:
    """The same merge, taken from the same board by all."""
    with open_ledger(path) as ledger, report.open("w") as out:
        board = ledger.board("t")
        parts = tuple(standing.candidate_id for standing in board.undecided)
        merge = Combine(board.baseline_id, parts, 0, -0.01, "as decided")
        barrier.wait()
        for assembled in (merged_program("union", *parts), None):
            try:
                ledger.decisions.apply(
                    *("t", merge),
                    noise=NOISE,
                    sentence="as decided",
                    assembled=assembled,
                    problem="" if assembled else "nothing could be merged",
                    merges_seen=len(board.merges),
                )
            except LedgerProblem:
                continue
            print("merged", file=out)
