"""Rows of the ledger parsed into the domain's frozen types, once, at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from scheduler.domain.candidate import Candidate, CandidateState, Origin
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.result import Failed, Infra, Result, ResultError, Scored, Verdict, parse_result
from scheduler.domain.run import Attempt, Cancelled, Finished, Queued, Run, RunKind, Running, RunState
from scheduler.ledger.ids import candidate_id, run_id

# A run with its last attempt and its result; every query for runs starts here.
RUNS = """
SELECT run.*, attempt.slot_id, attempt.boot_id, attempt.started_at, attempt.ended_at,
       result.attempt AS result_attempt, result.family, result.status, result.reason,
       result.val_bpb, result.val_bpb_upstream, result.suspect, result.text
FROM run
LEFT JOIN attempt ON attempt.run = run.number AND attempt.number = run.attempts
LEFT JOIN result ON result.run = run.number
"""


def known_fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values a dataclass of today knows: what a later program wrote beside them is left out."""
    known = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in known}


def parse_candidate(row: Any) -> Candidate:
    return Candidate(
        id=candidate_id(row["number"]),
        tag=row["tag"],
        name=row["name"],
        commit=row["commit_id"],
        base_id=None if row["base"] is None else candidate_id(row["base"]),
        train_sha256=row["train_sha256"],
        fingerprint=row["fingerprint"],
        title=row["title"],
        author=row["author"],
        submitted_at=row["submitted_at"],
        state=CandidateState(row["state"]),
        origin=Origin(row["origin"]),
        proposer=row["proposer"],
        hypothesis=row["hypothesis"],
        theme=row["theme"],
        round=row["round"],
        code_lines=row["code_lines"],
    )


def parse_run(row: Any) -> Run:
    """Raises LedgerProblem for a finished run whose result cannot be read."""
    return Run(
        id=run_id(row["number"]),
        candidate_id=candidate_id(row["candidate"]),
        kind=RunKind(row["kind"]),
        seed=row["seed"],
        attempts=row["attempts"],
        pool=row["pool"],
        state=_parse_state(row),
    )


def parse_attempt(row: Any) -> Attempt:
    return Attempt(
        number=row["number"],
        slot_id=row["slot_id"],
        boot_id=row["boot_id"],
        started_at=row["started_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
        outcome=row["outcome"],
    )


def _parse_state(row: Any) -> RunState:
    match row["state"]:
        case "queued":
            return Queued(row["since"], row["note"])
        case "running":
            return Running(row["attempts"], row["slot_id"], row["boot_id"], row["started_at"])
        case "cancelled":
            return Cancelled(row["since"], row["note"])
    return Finished(row["result_attempt"], row["slot_id"], row["started_at"], row["since"], _parse_result(row))


def _parse_result(row: Any) -> Result:
    """The verdict is what was recorded; figures to show are read from the judge's text."""
    try:
        return Result(_parse_verdict(row), parse_result(row["text"]).measured, row["text"])
    except ResultError as problem:
        raise LedgerProblem(f"the result of {run_id(row['number'])} in the ledger is unreadable: {problem}") from None


def _parse_verdict(row: Any) -> Verdict:
    match row["family"]:
        case "scored":
            return Scored(row["val_bpb"], row["val_bpb_upstream"], row["suspect"])
        case "infra":
            return Infra(row["status"], row["reason"])
    return Failed(row["status"], row["reason"])
