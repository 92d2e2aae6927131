"""Which result a supervisor believes, and how long it waits for one."""

from __future__ import annotations

import hashlib
import json

import pytest

from harness.contract import load_contract
from harness.judge.report import JudgeVerdict as JudgesVerdict
from scheduler.domain.slot import LONGEST_BUDGET_S, carries, longest_run_s, refusal


def result(status: str) -> bytes:
    return json.dumps({"format": 1, "status": status, "reason": "", "val_bpb": 1.9}).encode()


NONCE = "beef" * 8


def line(data: bytes, nonce: str = NONCE) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()} {nonce}\n".encode()


STATUSES = ["ok", "suspect: clones", "crash", "oom", "no-eval", "timeout: train", "invalid: output", "infra: lock"]


@pytest.mark.parametrize("status", STATUSES)
def test_the_exit_code_of_a_verdict_is_the_judges(status: str) -> None:
    due = JudgesVerdict(status).exit_code
    data = result(status)
    assert refusal(data, line(data), due, NONCE) == ""
    for other in {0, 1, 2, 3, -9, None} - {due}:
        assert f"exit code {due}" in refusal(data, line(data), other, NONCE)


OK = result("ok")


@pytest.mark.parametrize(
    ("data", "said", "why"),
    [
        (None, b"", "without a result"),
        (OK, b"", "did not vouch"),
        (None, line(OK), "not the one"),
        (OK, line(result("crash")), "not the one"),
        (OK, line(OK) + line(OK), "not the one"),
        (OK, line(result("crash")) + line(OK), "not the one"),
        (OK, line(OK)[:-1], "not the one"),
        (OK, line(OK)[:10], "not the one"),
        (OK, line(OK).upper(), "not the one"),
        (OK + b" ", line(OK), "not the one"),
        (OK, line(OK, "cafe" * 8), "not the one"),
        (OK, line(OK, ""), "not the one"),
        (OK, hashlib.sha256(OK).hexdigest().encode() + b"\n", "not the one"),
        (b"{}", line(b"{}"), "cannot be read"),
        (b"\xff", line(b"\xff"), "cannot be read"),
    ],
)
def test_any_other_word_than_the_digest_is_refused(data: bytes | None, said: bytes, why: str) -> None:
    assert why in refusal(data, said, 0, NONCE)


@pytest.mark.parametrize("text", ["", "[]", "nonce", '{"nonce": null}', '{"nonce": "cafe"}', "{}", "[" * 10**5])
def test_only_a_result_with_the_nonce_carries_it(text: str) -> None:
    assert carries(json.dumps({"nonce": NONCE}), NONCE)
    assert not carries(text, NONCE) and not carries(text, "")


def test_no_result_counts_for_an_attempt_without_a_nonce() -> None:
    assert not carries('{"nonce": ""}', "") and not carries('{"nonce": null}', "")


@pytest.mark.parametrize(("name", "at_least", "at_most"), [("cpu", 400, 900), ("standard", 1560, 1900)])
def test_a_run_may_take_what_its_contract_allows_and_not_much_more(name: str, at_least: float, at_most: float) -> None:
    contract = load_contract(name)
    limits, budget = contract.limits, contract.budget
    allowed_s = limits.startup_s + budget.wall_limit_s + limits.evaluation_s + limits.teardown_s
    longest_s = longest_run_s(contract.to_json())
    assert at_least < longest_s < at_most
    assert longest_s >= allowed_s + 120


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"budget": {}, "limits": 3}', '{"budget": null}'])
def test_a_contract_without_limits_gets_the_longest_there_are(text: str) -> None:
    assert longest_run_s(text) == LONGEST_BUDGET_S
