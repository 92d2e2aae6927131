"""Whether a result is the judge's, and how long a judge may take: pure rules of the supervisor that started it.

A candidate may write to every file its judge writes to. What it cannot reach is the pipe between judge and supervisor
and the judge's exit code; so those two decide, and the file has to agree with them.
"""

from __future__ import annotations

import hashlib
import json

from scheduler.domain.result import Infra, ResultError, Scored, Verdict, parse_result

LONGEST_BUDGET_S = 7 * 86_400.0  # the longest a contract may ask for; for one that does not say
JUDGE_SLACK_S = 120.0  # imports, waiting for the slot's lock, killing, removing large compile caches


def exit_code_of(verdict: Verdict) -> int:
    """The judge's exit code for a verdict: 0 with a score, 1 for a fault of the lab's, 3 for one of the candidate's."""
    match verdict:
        case Scored():
            return 0
        case Infra():
            return 1
        case _:
            return 3


def refusal(result: bytes | None, digest_line: bytes, exit_code: int | None) -> str:
    """Why the bytes of a result.json are not to be believed; "" when they are the judge's.

    `digest_line`: everything that came through the judge's pipe until its end. `exit_code`: None when it is unknown.
    """
    if not digest_line:
        return "the judge ended without a result" if result is None else "nobody vouched for its result"
    if result is None or digest_line != hashlib.sha256(result).hexdigest().encode() + b"\n":
        return "its result.json is not the one the judge wrote"
    try:
        due = exit_code_of(parse_result(result.decode()).verdict)
    except (ResultError, UnicodeDecodeError) as problem:
        return f"its result.json cannot be read: {problem}"
    return "" if exit_code == due else f"the judge did not end with exit code {due}, as its result says"


def longest_run_s(contract_json: str) -> float:
    """Wall seconds after which a judge cannot be at work any more: all limits of the contract, and slack."""
    try:
        contract = json.loads(contract_json)
        budget, limits = contract["budget"], contract["limits"]
        # A candidate that does not stop is ended a tenth of its budget (at least 1 s) after its grace.
        overrun_s = budget["seconds"] + budget["grace_s"] + max(1.0, 0.1 * budget["seconds"])
        train_s = max(budget["wall_limit_s"], overrun_s)
        return float(limits["startup_s"] + train_s + limits["evaluation_s"] + limits["teardown_s"] + JUDGE_SLACK_S)
    except (ValueError, KeyError, TypeError):
        return LONGEST_BUDGET_S
