"""The lab as the policies see it: every candidate's scores, and the merges there were.

Scores are compared within one pool only (device model, driver, contract, cache): the pool of the baseline's first
score. A score from another pool counts as a failed run, with that reason. Runs of a claim, audits and calibrations are
not here: nothing was decided on them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection
from copy import copy
from typing import Any, NamedTuple

from scheduler.domain.candidate import CLONE_BPB, CLONES, CandidateState, CandidateStats, Occasion, group_clones
from scheduler.domain.decision import Merge
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Lab, LabSnapshot
from scheduler.domain.run import THROTTLED, RunKind, held_s
from scheduler.ledger.db import Database
from scheduler.ledger.rows import (
    LAST_LENGTHS,
    LENGTHS,
    MEASURED_APART,
    ORIGINS,
    STATES,
    candidate_id,
    decode,
    from_row,
    number_of,
    read_lab,
)


class _CandidateRow(NamedTuple):
    number: int
    name: str
    base: int | None
    state: str
    origin: str
    code_lines: int


class _RunRow(NamedTuple):
    candidate: int
    state: str
    pool: str
    status: str | None
    reason: str | None
    val_bpb: float | None  # of every run that scored, and of no other
    suspect: str | None
    seed: int
    slot_id: str | None
    started_at: float | None
    recorded_at: float | None
    wall_s: float | None
    speed: float | None
    train_s: float | None
    kind: str

    @property
    def occasion(self) -> Occasion:
        """Of a run with a result."""
        assert self.slot_id is not None and self.started_at is not None and self.recorded_at is not None
        middle = self.started_at + held_s(self.started_at, self.recorded_at, self.wall_s) / 2
        return Occasion(middle, self.slot_id, self.seed, self.speed, self.train_s)


_BASELINES = (CandidateState.BASELINE, CandidateState.PROMOTED)
_CANDIDATES = "SELECT number, name, base, state, origin, code_lines FROM candidate"

_RUNS = """
SELECT run.candidate, run.state, run.pool, result.status, result.reason, result.val_bpb, result.suspect,
       run.seed, attempt.slot_id, attempt.started_at, result.recorded_at, result.wall_s, result.speed,
       result.train_s, run.kind
FROM run LEFT JOIN result ON result.run = run.number
LEFT JOIN attempt ON attempt.run = run.number AND attempt.number = run.attempts
"""


class Snapshots:
    """Snapshots as they were last read, brought up to date by what changed since: a lab may have many candidates.

    Every change of state leaves an event in its own transaction, so the events since the last look name all of them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, _Known] = {}
        self.read = database.per_stamp(self._read)

    def _read(self, tag: str) -> LabSnapshot:
        lab = read_lab(self._database, tag)
        known = self._known.get(tag, _Known()).copy()  # in a transaction, what is read may yet be undone
        with self._database.snapshot():
            known.catch_up(self._database, tag)
        if not self._database.is_writing:
            self._known[tag] = known
        return known.snapshot(lab)


class _Known:
    """What was read of one lab up to an event."""

    def __init__(self) -> None:
        self._event = 0
        self._candidates: dict[int, _CandidateRow] = {}
        self._runs: dict[int, list[_RunRow]] = {}
        self._standings: dict[int, CandidateStats] = {}
        self._merges: tuple[Merge, ...] = ()
        self._pool: str | None = None
        self._run_s: float | None = None

    def copy(self) -> _Known:
        """To go on from here without being changed by it."""
        other = copy(self)
        other._candidates, other._runs = dict(self._candidates), dict(self._runs)
        other._standings = dict(self._standings)
        return other

    def catch_up(self, database: Database, tag: str) -> None:
        # Merges are written with their decision, and never change.
        seen = self._merges[-1].number if self._merges else 0
        new = database.all("SELECT * FROM merge WHERE tag = ? AND number > ? ORDER BY number", tag, seen)
        self._merges += tuple(map(_parse_merge, new))
        last = database.one("SELECT coalesce(max(number), 0) FROM event WHERE tag = ?", tag)[0]
        if last == self._event:
            return
        self._read(database, tag, _changed_since(database, tag, self._event) if self._event else None)
        self._event = last

    def snapshot(self, lab: Lab) -> LabSnapshot:
        base = next((row for row in self._candidates.values() if row.state == CandidateState.BASELINE), None)
        if base is None:
            raise LabProblem(f"lab {lab.tag!r} has no baseline", f"finish its setup: arsched init --tag {lab.tag}")
        pool = next((run.pool for run in self._runs[base.number] if run.val_bpb is not None), None)
        if pool != self._pool:
            self._pool = pool
            self._standings.clear()
        for number, row in self._candidates.items():
            if number not in self._standings:
                self._standings[number] = _standing(row, self._runs[number], pool)
        base_id, is_first = candidate_id(base.number), base.base is None
        standings = tuple(self._standings[number] for number in sorted(self._standings))
        return LabSnapshot(
            *(base_id, is_first, standings, lab.noise_prior_bpb, lab.gates, self._merges),
            run_s=self._run_s,
            noise_prior_seed_bpb=lab.noise_prior_seed_bpb,
        )

    def _read(self, database: Database, tag: str, numbers: Collection[int] | None) -> None:
        """Read these candidates (None: all of the lab) and forget how they stood."""
        chosen = "" if numbers is None else " AND {} IN (SELECT value FROM json_each(?))"
        values = (tag,) if numbers is None else (tag, json.dumps(list(numbers)))
        rows = database.rows(_CandidateRow, f"{_CANDIDATES} WHERE tag = ?{chosen.format('number')}", *values)
        for row in rows:
            self._candidates[row.number], self._runs[row.number] = row, []
            self._standings.pop(row.number, None)
        condition = f"WHERE run.tag = ?{chosen.format('run.candidate')} AND run.kind NOT IN {MEASURED_APART}"
        for run in database.rows(_RunRow, f"{_RUNS} {condition} ORDER BY result.number, run.number", *values):
            self._runs[run.candidate].append(run)
        lengths = database.all(LENGTHS, tag, LAST_LENGTHS)
        self._run_s = statistics.median(held_s(*row) for row in lengths) if lengths else None


def _changed_since(database: Database, tag: str, event: int) -> set[int]:
    """Numbers of the candidates that the events after `event` are about, or about a run of."""
    rows = database.all("SELECT subject FROM event WHERE tag = ? AND number > ?", tag, event)
    subjects = {row["subject"] for row in rows}
    runs = [number for subject in subjects if (number := number_of(subject, "r")) is not None]
    of_runs = database.all(
        "SELECT DISTINCT candidate FROM run WHERE number IN (SELECT value FROM json_each(?))", json.dumps(runs)
    )
    candidates = {number for subject in subjects if (number := number_of(subject, "c")) is not None}
    return candidates | {row["candidate"] for row in of_runs}


def _standing(row: _CandidateRow, runs: Collection[_RunRow], pool: str | None) -> CandidateStats:
    scored: list[_RunRow] = []
    failed: list[_RunRow] = []
    pending = 0
    since: list[float] = []
    for run in runs:
        if run.state in ("queued", "running"):
            pending += 1
            if run.state == "running" and run.started_at is not None:
                since.append(run.started_at)
        elif run.val_bpb is not None and pool in (None, run.pool):
            scored.append(run)
        elif run.state == "finished":
            failed.append(run)
    echoes = [place for place, run in enumerate(scored) if _is_echo(run, scored[:place])]
    failed += [scored[place] for place in echoes]
    scored = [run for place, run in enumerate(scored) if place not in echoes]
    slowed = _slowed(scored) if row.state in _BASELINES else []
    scored, failed = [run for run in scored if run not in slowed], [*failed, *slowed]
    last, failure = failed[-1] if failed else None, ""
    if slowed:
        failure = f"suspect: {THROTTLED}"
    elif echoes:
        failure = f"said nothing new: with seed {failed[-1].seed} it had that very score before"
    elif last and last.val_bpb is not None:
        failure = f"not comparable: measured on {last.pool}, the baseline on {pool}"
    elif last:
        failure = f"{last.status}: {last.reason}" if last.reason else str(last.status)
    groups = group_clones([run.val_bpb for run in scored if run.val_bpb is not None], [run.seed for run in scored])
    clones = len(scored) - len(groups)
    if clones:
        failure = failure or f"suspect: {CLONES}: {clones + 1} runs with different seeds gave one score"
    counted = [scored[group[0]] for group in groups]
    scores = tuple(run.val_bpb for run in counted if run.val_bpb is not None)
    suspect = sum(len(group) > 1 or bool(scored[group[0]].suspect) for group in groups)
    base_id = None if row.base is None else candidate_id(row.base)
    return CandidateStats(
        *(
            candidate_id(row.number),
            row.name,
            base_id,
            STATES[row.state],
            scores,
            pending,
            len(failed) + clones,
            suspect,
        ),
        *(failure, ORIGINS[row.origin], row.code_lines),
        *(tuple(run.occasion for run in counted), tuple(sorted(since))),
    )


def _slowed(scored: Collection[_RunRow]) -> list[_RunRow]:
    """A baseline's scores from slowed GPUs, where it has others: a worse one would make every candidate look better."""
    slowed = [run for run in scored if run.suspect == THROTTLED]
    return slowed if len(slowed) < len(scored) else []


def _is_echo(run: _RunRow, before: Collection[_RunRow]) -> bool:
    """Whether a repeat with a seed that its program has had gave the score of then: nothing is random but the seed."""
    if run.kind != RunKind.REPEAT or run.val_bpb is None:
        return False
    earlier = (one.val_bpb for one in before if one.seed == run.seed)
    return any(score is not None and abs(run.val_bpb - score) <= CLONE_BPB for score in earlier)


def _parse_merge(row: Any) -> Merge:
    candidate = row["candidate"] and candidate_id(row["candidate"])
    parts, merged = (decode(row[name], tuple[str, ...], f"merge {row['number']}") for name in ("parts", "merged"))
    ids = {"base_id": candidate_id(row["base"]), "candidate_id": candidate}
    return from_row(Merge, row, parts=parts, merged=merged, **ids)
