"""The lab as the policies see it: every candidate's scores, read in three queries.

Scores are compared within one pool only (device model, driver, contract, cache): the pool of the baseline's first
score. A score from another pool counts as a failed run that says so. Runs of a claim are not
here: they were not what anything was decided on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from scheduler.domain.candidate import CandidateState, Origin, Standing
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Board, Lab
from scheduler.domain.merge import Merge
from scheduler.ledger.db import Database
from scheduler.ledger.ids import candidate_id, number_of
from scheduler.ledger.merges import read_merges

_CANDIDATES = "SELECT number, name, base, state, origin, code_lines FROM candidate"

_RUNS = """
SELECT run.candidate, run.state, run.pool, result.family, result.status, result.reason, result.val_bpb, result.suspect
FROM run LEFT JOIN result ON result.run = run.number
"""

_CandidateRow = tuple[Any, ...]  # the columns of _CANDIDATES
_RunRow = tuple[Any, ...]  # the columns of _RUNS, without the candidate


class Boards:
    """Boards as they were last read, brought up to date by what changed since: a lab may have a thousand candidates.

    Every change of state leaves an event in its own transaction, so the events since the last look name all of them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, _Known] = {}

    def read(self, lab: Lab) -> Board:
        """Raises LabProblem when the lab has no baseline."""
        known = self._known.get(lab.tag, _Known()).copy()  # in a transaction, what is read may yet be undone
        with self._database.snapshot():
            known.catch_up(self._database, lab.tag)
        if not self._database.is_writing:
            self._known[lab.tag] = known
        return known.board(lab)


class _Known:
    """What was read of one lab up to an event."""

    def __init__(self) -> None:
        self._event = 0
        self._candidates: dict[int, _CandidateRow] = {}
        self._runs: dict[int, tuple[_RunRow, ...]] = {}
        self._standings: dict[int, Standing] = {}
        self._merges: tuple[Merge, ...] = ()
        self._pool: str | None = None

    def copy(self) -> _Known:
        """To go on from here without being changed by it."""
        other = _Known()
        other._event, other._merges, other._pool = self._event, self._merges, self._pool
        other._candidates, other._runs = dict(self._candidates), dict(self._runs)
        other._standings = dict(self._standings)
        return other

    def catch_up(self, database: Database, tag: str) -> None:
        self._merges += read_merges(database, tag, after=self._merges[-1].number if self._merges else 0)
        subjects = database.all("SELECT number, subject FROM event WHERE tag = ? AND number > ?", tag, self._event)
        if not subjects:
            return
        if self._event:
            self._read(database, tag, _candidates_of(database, {row["subject"] for row in subjects}))
        else:
            self._read(database, tag, None)
        self._event = max(row["number"] for row in subjects)

    def board(self, lab: Lab) -> Board:
        base = next((row for row in self._candidates.values() if row[3] == CandidateState.BASELINE), None)
        if base is None:
            raise LabProblem(f"lab {lab.tag!r} has no baseline", f"finish its setup: arsched init --tag {lab.tag}")
        number, pool = base[0], next((run[1] for run in self._runs[base[0]] if run[2] == "scored"), None)
        if pool != self._pool:
            self._pool = pool
            self._standings.clear()
        for known, row in self._candidates.items():
            if known not in self._standings:
                self._standings[known] = _standing(row, self._runs[known], pool)
        return Board(
            baseline_id=candidate_id(number),
            first_baseline=base[2] is None,
            standings=tuple(self._standings[known] for known in sorted(self._standings)),
            noise_prior_bpb=lab.noise_prior_bpb,
            gates=lab.gates,
            merges=self._merges,
        )

    def _read(self, database: Database, tag: str, numbers: Collection[int] | None) -> None:
        """Read these candidates (None: all of the lab) and forget how they stood."""
        chosen = "" if numbers is None else f" AND {{}} IN ({', '.join(map(str, numbers))})"
        condition = f" WHERE tag = ?{chosen.format('number')} ORDER BY number"
        rows = [tuple(row) for row in database.all(f"{_CANDIDATES}{condition}", tag)]
        runs_of: dict[int, list[_RunRow]] = {row[0]: [] for row in rows}
        condition = f" WHERE run.tag = ?{chosen.format('run.candidate')} AND run.kind != 'claim'"
        for run in database.all(f"{_RUNS}{condition} ORDER BY result.number, run.number", tag):
            runs_of[run["candidate"]].append(tuple(run)[1:])
        for row in rows:
            self._candidates[row[0]], self._runs[row[0]] = row, tuple(runs_of[row[0]])
            self._standings.pop(row[0], None)


def _candidates_of(database: Database, subjects: Collection[str]) -> set[int]:
    """Numbers of the candidates that these subjects of events are, or are runs of."""
    found = {number for subject in subjects if (number := number_of(subject, "c")) is not None}
    runs = [number for subject in subjects if (number := number_of(subject, "r")) is not None]
    rows = database.all(f"SELECT DISTINCT candidate FROM run WHERE number IN ({', '.join(map(str, runs))})")
    return found | {row["candidate"] for row in rows}


def _standing(row: _CandidateRow, runs: tuple[_RunRow, ...], pool: str | None) -> Standing:
    number, name, base, state, origin, code_lines = row
    finished = [run for run in runs if run[0] == "finished"]
    scored = [run for run in finished if _counts(run, pool)]
    failed = [run for run in finished if not _counts(run, pool)]
    return Standing(
        candidate_id=candidate_id(number),
        name=name,
        base_id=None if base is None else candidate_id(base),
        state=CandidateState(state),
        scores=tuple(val_bpb for *_, val_bpb, _suspect in scored),
        pending_runs=sum(run[0] in ("queued", "running") for run in runs),
        failed_runs=len(failed),
        suspect_scores=sum(bool(suspect) for *_, suspect in scored),
        failure=_failure(failed[-1], pool) if failed else "",
        origin=Origin(origin),
        code_lines=code_lines,
    )


def _counts(run: _RunRow, pool: str | None) -> bool:
    _, measured_on, family, *_ = run
    return family == "scored" and pool in (None, measured_on)


def _failure(run: _RunRow, pool: str | None) -> str:
    _, measured_on, family, status, reason, *_ = run
    if family == "scored":
        return f"not comparable: measured on {measured_on}, the baseline on {pool}"
    return f"{status}: {reason}" if reason else str(status)
