"""The lab as the policies see it: every candidate's scores, read in three queries.

Scores are compared within one pool only (device model, driver, contract, cache): the pool of the baseline's first
score. A score from another pool counts as a failed run that says so. Runs of a claim are not
here: they were not what anything was decided on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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


def read_board(database: Database, lab: Lab) -> Board:
    """Raises LabProblem when the lab has no baseline."""
    with database.snapshot():
        candidates = database.all(_CANDIDATES, lab.tag)
        runs = database.all(_RUNS, lab.tag)
        merges = read_merges(database, lab.tag)
    baseline = next((row for row in candidates if row["state"] == CandidateState.BASELINE), None)
    if baseline is None:
        raise LabProblem(f"lab {lab.tag!r} has no baseline", f"finish its setup: arsched init --tag {lab.tag}")
    runs_of: dict[int, list[Any]] = defaultdict(list)
    for row in runs:
        runs_of[row["candidate"]].append(row)
    pool = next((run["pool"] for run in runs_of[baseline["number"]] if run["family"] == "scored"), None)
    return Board(
        baseline_id=candidate_id(baseline["number"]),
        first_baseline=baseline["base"] is None,
        standings=tuple(_standing(row, runs_of[row["number"]], pool) for row in candidates),
        noise_prior_bpb=lab.noise_prior_bpb,
        gates=lab.gates,
        merges=merges,
    )


def _standing(row: Any, runs: Sequence[Any], pool: str | None) -> Standing:
    finished = [run for run in runs if run["state"] == "finished"]
    scored = [run for run in finished if _counts(run, pool)]
    failed = [run for run in finished if not _counts(run, pool)]
    return Standing(
        candidate_id=candidate_id(row["number"]),
        name=row["name"],
        base_id=None if row["base"] is None else candidate_id(row["base"]),
        state=CandidateState(row["state"]),
        scores=tuple(run["val_bpb"] for run in scored),
        pending_runs=sum(run["state"] in ("queued", "running") for run in runs),
        failed_runs=len(failed),
        suspect_scores=sum(bool(run["suspect"]) for run in scored),
        failure=_failure(failed[-1], pool) if failed else "",
        origin=Origin(row["origin"]),
        code_lines=row["code_lines"],
    )


def _counts(run: Any, pool: str | None) -> bool:
    return run["family"] == "scored" and pool in (None, run["pool"])


def _failure(run: Any, pool: str | None) -> str:
    if run["family"] == "scored":
        return f"not comparable: measured on {run['pool']}, the baseline on {pool}"
    return f"{run['status']}: {run['reason']}" if run["reason"] else str(run["status"])
