"""Runs in the ledger: added, found, counted, leased to a slot, finished once.

    queued ──lease──> running ──record──> finished
       ^                 │ requeue (the third that counts finishes the run)
       └─────────────────┘                cancel: queued or running ──> cancelled

Every move names the state it leaves, so of two movers one changes nothing. An attempt holds the lease from `lease`
until it is recorded, requeued or cancelled: only then is its result refused, not when the clock passes `expires_at`,
because a result that no other slot is computing is still the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from scheduler.domain.candidate import CLONE_BPB, CLONES
from scheduler.domain.errors import LedgerProblem, UsageProblem
from scheduler.domain.run import (
    THROTTLED,
    Attempt,
    Failed,
    Infra,
    Queued,
    Result,
    Run,
    RunKind,
    Running,
    RunState,
    Scored,
    held_s,
    infra_result,
    next_seed,
)
from scheduler.domain.slot import Slot
from scheduler.ledger.db import Database
from scheduler.ledger.rows import (
    LAST_LENGTHS,
    LENGTHS,
    MEASURED_APART,
    POOLS,
    RUNS,
    Events,
    Table,
    candidate_id,
    number_of,
    parse_run,
    run_id,
    unknown,
)

MAX_INFRA_ATTEMPTS = 3  # attempts the lab may lose before it gives a run up
LOST, CANCELLED = "lost", "cancelled"  # outcomes of an attempt without a result
STOPPED = "stopped"  # outcome of an attempt ended on purpose, which never counts against a run
_FAMILIES: dict[type, str] = {Scored: "scored", Failed: "failed", Infra: "infra"}


class RunCount(NamedTuple):
    """How many runs of a lab are alike. `family` is scored, failed or infra, "" for a run without a result."""

    kind: str
    state: str
    family: str
    runs: int


class PoolCount(NamedTuple):
    """Scores of a lab in one pool of like slots: how many runs, of how many candidates."""

    pool: str
    runs: int
    candidates: int


class AttemptRow(NamedTuple):
    """One attempt. `queued_at` is since when its run could have been placed; times in seconds since the epoch.

    `has_result`: the run's result is of this attempt; then `wall_s` is how long its judge lived and `train_s` how long
    the candidate trained, by the judge's clock, where known.
    """

    run: int
    candidate: int
    kind: str
    number: int
    slot_id: str
    queued_at: float
    started_at: float
    ended_at: float | None
    outcome: str
    has_result: int
    wall_s: float | None
    train_s: float | None

    @property
    def run_id(self) -> str:
        return run_id(self.run)

    @property
    def candidate_id(self) -> str:
        return candidate_id(self.candidate)


class Runs(Table):
    def __init__(self, database: Database, events: Events, clock: Callable[[], float]) -> None:
        super().__init__(database, events, clock)
        self._pending = self._database.per_stamp(self._read_pending)

    def get(self, ref: str, tag: str) -> Run:
        """By id or "last". Raises UsageProblem naming the nearest when there is none in this lab."""
        if ref == "last":
            runs = self._read("run.tag = ? ORDER BY run.number DESC LIMIT 1", tag)
        else:
            runs = self._read("run.tag = ? AND run.number = ?", tag, number_of(ref, "r"))
        if not runs:
            known = self._database.all("SELECT number FROM run WHERE tag = ? ORDER BY number", tag)
            raise unknown("run", ref, tag, [run_id(row["number"]) for row in known])
        return runs[0]

    def list(self, tag: str) -> tuple[Run, ...]:
        """All of a lab, in the order of their queueing."""
        return self._read("run.tag = ? ORDER BY run.number", tag)

    def of_kind(self, tag: str, kind: RunKind) -> tuple[Run, ...]:
        """In the order of their queueing."""
        return self._read("run.tag = ? AND run.kind = ? ORDER BY run.number", tag, kind.value)

    def of_candidate(self, ref: str) -> tuple[Run, ...]:
        return self._read("run.candidate = ? ORDER BY run.number", number_of(ref, "c"))

    def queued(self, tag: str) -> tuple[Run, ...]:
        """Runs that lost an attempt through no fault of theirs come first, then in the order of their queueing."""
        return self._pending(tag)[0]

    def running(self, tag: str) -> tuple[Run, ...]:
        """In the order of their queueing."""
        return self._pending(tag)[1]

    def expired(self, tag: str, now: float) -> tuple[Run, ...]:
        """Running runs whose lease was not renewed in time: harvest them if their node has a result, else requeue."""
        condition = "run.tag = ? AND run.state = 'running' AND attempt.expires_at <= ? ORDER BY run.number"
        return self._read(condition, tag, now)

    def last_result(self) -> int:
        """Number of the latest result of any lab, 0 before the first: results up to it are known by now."""
        return int(self._database.one("SELECT coalesce(max(number), 0) FROM result")[0])

    def attempts(self, ref: str) -> tuple[Attempt, ...]:
        columns = "number, slot_id, boot_id, started_at, expires_at, ended_at, outcome, charge"
        sql = f"SELECT {columns} FROM attempt WHERE run = ? ORDER BY number"
        return tuple(Attempt(*row) for row in self._database.all(sql, number_of(ref, "r")))

    def nonce(self, ref: str, attempt: int) -> str:
        """What the attempt's result has to say; "" where no result counts, as for attempts before there were nonces."""
        row = self._database.one("SELECT nonce FROM attempt WHERE run = ? AND number = ?", number_of(ref, "r"), attempt)
        return str(row["nonce"]) if row else ""

    # Figures of many runs, without a value for each run.

    def all_attempts(self, tag: str) -> tuple[AttemptRow, ...]:
        """Every attempt of a lab, by run and number."""
        return tuple(self._database.rows(AttemptRow, _ATTEMPTS, tag))

    def counts(self, tag: str) -> tuple[RunCount, ...]:
        """Of every kind, state and family of results there is."""
        return tuple(self._database.rows(RunCount, _COUNTS, tag))

    def scores_by_pool(self, tag: str) -> tuple[PoolCount, ...]:
        """Of runs that decide, the pool of the baseline's first score first, then that of the lab's first."""
        return tuple(self._database.rows(PoolCount, POOLS, tag))

    def count_of_ideas(self, tag: str, since: float) -> dict[str, int]:
        """State -> runs, claims and audits left out, of the candidates that came at `since` or later."""
        return {row["state"]: int(row["runs"]) for row in self._database.all(_OF_IDEAS, tag, since)}

    def last_lengths_s(self, tag: str, last: int = LAST_LENGTHS) -> tuple[float, ...]:
        """How long the last scored runs held their slots, the latest first."""
        return tuple(held_s(*row) for row in self._database.all(LENGTHS, tag, last))

    def last_failures(self, tag: str) -> dict[str, str]:
        """Candidate id -> status of its last finished run without a score; only candidates that have one."""
        return {candidate_id(number): status for number, status, _ in self._database.all(_FAILURES, tag)}

    def peak_memory_mb(self, tag: str) -> dict[str, float]:
        """Candidate id -> the largest peak of its finished runs; only candidates of which one is known."""
        return {candidate_id(number): peak for number, peak in self._database.all(_PEAKS, tag)}

    # Moves.

    def add(self, ref: str, kind: RunKind, reason: str, seed: int | None = None, within: int = 0) -> Run:
        """Queue a run of a candidate with the first of the lab's seeds (1, 2, 3, …) that it has not had, or that one.

        Candidates have their seeds in common: what a seed does to every program alike then moves no comparison. Once it
        has had `within` of them, with the one of those that it has had least often. Those of claims and calibrations
        are left out. A run that ended without a word on its program has not had its seed. Raises LedgerProblem, and
        UsageProblem for a seed that another run of the candidate has; a calibration's may.
        """
        with self._database.transaction():
            candidate = number_of(ref, "c")
            owner = self._database.one("SELECT tag FROM candidate WHERE number = ?", candidate)
            if owner is None:
                raise LedgerProblem(f"cannot queue a run: no candidate {ref!r}")
            tag = owner["tag"]
            if seed is None:
                rows, others = self._database.all(_HAD, candidate), self._database.all(_SET_ASIDE, tag)
                pending = [row["seed"] for row in rows if row["state"] in ("queued", "running")]
                had = [row["seed"] for row in rows]
                seed = next_seed(had, [row["seed"] for row in others], pending, within)
            elif kind is not RunKind.CALIBRATION and (
                taken := self._database.one(f"{_HAD} AND seed = ?", candidate, seed)
            ):
                raise UsageProblem(f"{run_id(taken['number'])} has had seed {seed}", "choose another, or leave it out")
            number = self._database.insert(
                "run", tag=tag, candidate=candidate, kind=kind.value, seed=seed, state="queued", since=self._clock()
            )
            self._events.write(tag, run_id(number), "", "queued", reason)
            return parse_run(self._row(run_id(number)))

    def fresh_seed(self, tag: str) -> int:
        """A seed that no run of the lab has: after the highest that was not chosen by hand, past those that were."""
        return int(self._database.one(_FRESH_SEED, tag, tag)[0])

    def lease(self, ref: str, slot: Slot, expires_at: float, nonce: str = "") -> int | None:
        """Give a queued run to a slot. Returns the attempt's number, or None when it is not queued any more.

        `nonce` is what the attempt's result has to say.
        """
        with self._database.transaction():
            now, before = self._clock(), self._row(ref)
            attempt = int(before["attempts"]) + 1
            leased = {"attempts": attempt, "pool": slot.pool, "in_front": 0, "note": "", "since": now}
            if not self._database.move("run", before["number"], "queued", "running", **leased):
                return None
            where = {"slot_id": slot.id, "boot_id": slot.boot_id, "nonce": nonce}
            when = {"queued_at": before["since"], "started_at": now, "expires_at": expires_at}
            self._database.insert("attempt", run=before["number"], number=attempt, **where, **when)
            self._events.write(before["tag"], ref, "queued", "running", f"attempt {attempt} on {slot.id}")
            return attempt

    def renew(self, ref: str, attempt: int, expires_at: float) -> bool:
        """Push the expiry of a lease. False when that attempt does not hold it."""
        with self._database.transaction():
            return self._database.update("attempt", _HOLDS_LEASE, number_of(ref, "r"), attempt, expires_at=expires_at)

    def record(self, ref: str, attempt: int, result: Result, charge: str = "") -> bool:
        """Finish a run with the result of the attempt that holds its lease; `charge` is what that says against it.

        False when another does or none: then nothing but an event is written, and the result is worth nothing.
        """
        with self._database.transaction():
            twin = self._twin(ref, result)
            if twin is not None and isinstance(result.verdict, Scored):
                result = Result(replace(result.verdict, suspect=CLONES), result.text)
            if not self._end_attempt(ref, attempt, result.verdict.status, charge):
                self._refuse(ref, attempt, f"result {result.verdict.status!r}")
                return False
            self._finish(ref, attempt, result)
            if twin is not None:
                reason = f"its score is that of {run_id(twin['number'])} with seed {twin['seed']}, to the last digit"
                self._events.write(self._row(ref)["tag"], f"{ref}.{attempt}", "", result.verdict.status, reason)
            return True

    def _twin(self, ref: str, result: Result) -> Any:
        """An earlier run with another seed that gave this very score, where nothing else makes that suspect."""
        run, verdict = self._row(ref), result.verdict
        if not isinstance(verdict, Scored) or verdict.suspect:
            return None
        return self._database.one(_TWIN, run["candidate"], run["number"], run["seed"], verdict.val_bpb, CLONE_BPB)

    def requeue(
        self,
        ref: str,
        attempt: int,
        reason: str,
        *,
        counts: bool = True,
        result: Result | None = None,
        charge: str = "",
    ) -> RunState:
        """Take the lease from an attempt that will give no score, and queue the run again, in front of the others.

        The third attempt that counts finishes the run instead, with `result` (what an infra judge wrote) or one that
        gives the reason. `counts=False`: it was ended on purpose, as by Ctrl-C; throttled ones never count. `charge`:
        what it says against its candidate. One without the lease changes nothing. Returns the state of the run now.
        """
        with self._database.transaction():
            outcome = STOPPED if not counts else result.verdict.status if result else LOST
            if not self._end_attempt(ref, attempt, outcome, charge):
                self._refuse(ref, attempt, f"requeue: {reason}")
            elif counts and self._database.one(_COUNTED, number_of(ref, "r"))[0] >= MAX_INFRA_ATTEMPTS:
                self._finish(ref, attempt, result or infra_result(LOST, reason))
            else:
                self._move(ref, "running", "queued", reason, in_front=True)
            return parse_run(self._row(ref)).state

    def cancel(self, ref: str, reason: str) -> bool:
        """Cancel a queued or running run. False when it is finished already. Stopping its attempt is the caller's."""
        with self._database.transaction():
            row = self._row(ref)
            if row["state"] not in ("queued", "running"):
                return False
            if row["state"] == "running":
                self._end_attempt(ref, row["attempts"], CANCELLED)
            self._move(ref, row["state"], "cancelled", reason)
            return True

    def _read(self, condition: str, *values: object) -> tuple[Run, ...]:
        return tuple(map(parse_run, self._database.all(f"{RUNS} WHERE {condition}", *values)))

    def _read_pending(self, tag: str) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """Queued and running runs. One that runs is not in front any more, so both orders are those of the query."""
        runs = self._read(
            "run.tag = ? AND run.state IN ('queued', 'running') ORDER BY run.in_front DESC, run.number", tag
        )
        queued = tuple(run for run in runs if isinstance(run.state, Queued))
        return queued, tuple(run for run in runs if isinstance(run.state, Running))

    def _row(self, ref: str) -> Any:
        """The run with its last attempt and result. Raises LedgerProblem when there is none."""
        row = self._database.one(f"{RUNS} WHERE run.number = ?", number_of(ref, "r"))
        if row is None:
            raise LedgerProblem(f"no run {ref!r} in the ledger")
        return row

    def _end_attempt(self, ref: str, attempt: int, outcome: str, charge: str = "") -> bool:
        end = {"ended_at": self._clock(), "outcome": outcome, "charge": charge}
        return self._database.update("attempt", _HOLDS_LEASE, number_of(ref, "r"), attempt, **end)

    def _finish(self, ref: str, attempt: int, result: Result) -> None:
        verdict, measured = result.verdict, result.measured
        why = f"val_bpb {verdict.val_bpb:.6f}" if isinstance(verdict, Scored) else verdict.reason
        about = {"run": number_of(ref, "r"), "attempt": attempt, "recorded_at": self._clock(), "text": result.text}
        said = {"status": verdict.status, "reason": "", "suspect": ""} | asdict(verdict)
        times = {"wall_s": measured.wall_s, "train_s": dict(measured.phases_s).get("train")}
        columns = about | said | times | {"peak_memory_mb": measured.peak_memory_mb, "speed": measured.machine.speed}
        self._database.insert("result", family=_FAMILIES[type(verdict)], **columns)
        self._move(ref, "running", "finished", f"{verdict.status}: {why}" if why else verdict.status)

    def _move(self, ref: str, from_: str, to: str, reason: str, in_front: bool = False) -> None:
        columns = {"since": self._clock(), "note": reason, "in_front": in_front}
        if not self._database.move("run", number_of(ref, "r"), from_, to, **columns):
            raise LedgerProblem(f"{ref} is not {from_}, as its attempts say: the ledger contradicts itself")
        self._events.write(self._row(ref)["tag"], ref, from_, to, reason)

    def _refuse(self, ref: str, attempt: int, what: str) -> None:
        """Write down that an attempt came too late: an event of its own, as the run did not move."""
        reason = f"{what}: refused, the attempt does not hold the lease"
        self._events.write(self._row(ref)["tag"], f"{ref}.{attempt}", "", "refused", reason)


_HAD = """
SELECT run.number, run.seed, run.state FROM run LEFT JOIN result ON result.run = run.number
WHERE run.candidate = ? AND run.state != 'cancelled' AND coalesce(result.family, '') != 'infra'
"""
_SET_ASIDE = "SELECT seed FROM run WHERE tag = ? AND kind IN ('claim', 'calibration')"
_FRESH_SEED = """
WITH RECURSIVE next(seed) AS (
    SELECT coalesce(max(seed), 0) + 1 FROM run WHERE tag = ? AND kind != 'audit'
    UNION ALL SELECT seed + 1 FROM next WHERE EXISTS (SELECT 1 FROM run WHERE tag = ? AND run.seed = next.seed)
) SELECT max(seed) FROM next
"""
_HOLDS_LEASE = "run = ? AND number = ? AND ended_at IS NULL"
_TWIN = """
SELECT run.number, run.seed FROM result JOIN run ON run.number = result.run
WHERE run.candidate = ? AND run.number != ? AND run.seed != ? AND abs(result.val_bpb - ?) <= ?
ORDER BY run.number LIMIT 1
"""
_COUNTED = f"SELECT count(ended_at) FROM attempt WHERE run = ? AND outcome NOT IN ('{STOPPED}', 'suspect: {THROTTLED}')"

_ATTEMPTS = """
SELECT run.number, run.candidate, run.kind, attempt.number, attempt.slot_id, attempt.queued_at, attempt.started_at,
       attempt.ended_at, attempt.outcome, result.run IS NOT NULL, result.wall_s, result.train_s
FROM run JOIN attempt ON attempt.run = run.number
LEFT JOIN result ON result.run = attempt.run AND result.attempt = attempt.number
WHERE run.tag = ? ORDER BY run.number, attempt.number
"""

_COUNTS = """
SELECT run.kind, run.state, coalesce(result.family, ''), count(*)
FROM run LEFT JOIN result ON result.run = run.number WHERE run.tag = ? GROUP BY 1, 2, 3
"""

_OF_IDEAS = f"""
SELECT run.state AS state, count(*) AS runs FROM run JOIN candidate ON candidate.number = run.candidate
WHERE run.tag = ? AND run.kind NOT IN {MEASURED_APART} AND candidate.base IS NOT NULL AND candidate.submitted_at >= ?
GROUP BY run.state
"""

# SQLite takes the other columns of a group from the row that has its max().
_FAILURES = """
SELECT run.candidate, result.status, max(run.number) FROM run JOIN result ON result.run = run.number
WHERE run.tag = ? AND result.family != 'scored' GROUP BY run.candidate
"""

_PEAKS = """
SELECT run.candidate, max(result.peak_memory_mb) AS peak FROM run JOIN result ON result.run = run.number
WHERE run.tag = ? AND result.peak_memory_mb IS NOT NULL GROUP BY run.candidate
"""
