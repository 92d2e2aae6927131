"""The lab as the policies see it: every candidate's scores, read in three queries.

Scores are compared within one pool only (device model, driver, contract, cache): the pool of the baseline's first
score. A score from another pool counts as a failed run that says so. Runs of a claim are not
here: they were not what anything was decided on.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import Any

from scheduler.adapters.ledger.db import Database
from scheduler.adapters.ledger.ids import candidate_id
from scheduler.adapters.ledger.merges import read_merges
from scheduler.domain.candidate import CandidateState, Origin, Standing
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Board, Lab

_CANDIDATES = "SELECT number, name, base, state, origin, code_lines FROM candidate WHERE tag = ? ORDER BY number"

_RUNS = """
SELECT run.candidate, run.state, run.pool, result.family, result.status, result.reason, result.val_bpb, result.suspect
FROM run LEFT JOIN result ON result.run = run.number
WHERE run.tag = ? AND run.kind != 'claim' ORDER BY result.number, run.number
"""

_CandidateRow = tuple[Any, ...]  # the columns of _CANDIDATES
_RunRow = tuple[Any, ...]  # the columns of _RUNS, without the candidate


def read_board(database: Database, lab: Lab) -> Board:
    """Raises LabProblem when the lab has no baseline."""
    with database.snapshot():
        candidates = database.all(_CANDIDATES, lab.tag)
        runs = database.all(_RUNS, lab.tag)
        merges = read_merges(database, lab.tag)
    baseline = next((row for row in candidates if row["state"] == CandidateState.BASELINE), None)
    if baseline is None:
        raise LabProblem(f"lab {lab.tag!r} has no baseline", f"finish its setup: arsched init --tag {lab.tag}")
    runs_of: dict[int, list[_RunRow]] = defaultdict(list)
    for row in runs:
        runs_of[row["candidate"]].append(tuple(row)[1:])
    pool = next((pool for _, pool, family, *_ in runs_of[baseline["number"]] if family == "scored"), None)
    return Board(
        baseline_id=candidate_id(baseline["number"]),
        first_baseline=baseline["base"] is None,
        standings=tuple(_standing(tuple(row), tuple(runs_of[row["number"]]), pool) for row in candidates),
        noise_prior_bpb=lab.noise_prior_bpb,
        gates=lab.gates,
        merges=merges,
    )


@lru_cache(maxsize=8192)
def _standing(row: _CandidateRow, runs: tuple[_RunRow, ...], pool: str | None) -> Standing:
    """Remembered, because a board is read after every change and most of its candidates have none."""
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
