"""Slots, the orders and reports of runs on them, `Pool` (what every executor implements), and which result is believed.

A slot is one whole GPU, or one CPU core for contracts that need no GPU. A pool keeps no record: the ledger does.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Protocol

from scheduler.domain.run import Failed, Infra, ResultError, Scored, Verdict, parse_result


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for one run at a time.

    `pool` names what makes scores comparable (device model, driver, contract, cache); `boot_id` changes when the node
    restarts; `problem` says why nothing may be placed here now ("" when healthy); `notes`: what is worth knowing else.
    """

    id: str  # "node-a/gpu0" or "laptop/cpu1"
    node: str
    boot_id: str
    device: str  # "cpu" or "cuda"
    device_name: str
    pool: str
    cache_digest: str
    problem: str = ""
    notes: tuple[str, ...] = ()


IN_USE = "a run of another lab is going on"  # how a slot's problem begins that is over when that run is


DIRTY = "dirty: "  # how a slot's problem begins that is over once a process no lab knows of has left it


def is_in_use(slot: Slot) -> bool:
    """Whether another lab of this machine has the slot for now: to be waited for."""
    return slot.problem.startswith(IN_USE)


@dataclass(frozen=True, slots=True)
class RunOrder:
    """All a node needs to judge one run: bytes and values, no paths, no git.

    `nonce` is known to the driver, the slot's supervisor and the judge: a result that says it is of this attempt.
    `compile_key` names the compile caches the run starts with, where the node has them; "" for a cold start.
    `may_keep_caches`: a run that is scored may leave its own under that name, because its train.py is the person's.
    """

    lab_id: str  # names the spool folder: two labs on one node do not mix
    run_id: str
    attempt: int
    train_py: bytes
    train_sha256: str
    contract_json: str
    cache_digest: str
    seed: int
    nonce: str = field(repr=False)
    expect_attention: str | None = None
    compile_key: str = ""
    may_keep_caches: bool = False
    sandbox: str = "full"

    @property
    def key(self) -> str:
        """Name of this attempt on its node, like "r0012.1"."""
        return f"{self.run_id}.{self.attempt}"


def compile_key(slot: Slot, baseline_sha256: str) -> str:
    """Name of the compile caches of one first baseline on slots like this one of the same node: 32 hex digits.

    The node is part of it because compiled code fits its processor and C library, and nodes may share a home folder.
    """
    return hashlib.sha256("\n".join((slot.node, slot.pool, baseline_sha256)).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running candidate is doing, by the judge's clock; loss and step as the candidate reported them."""

    phase: str = "starting"
    elapsed_s: float = 0.0
    budget_s: float = 0.0
    step: int | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """The attempt is running."""

    slot_id: str
    run_id: str
    attempt: int
    progress: Progress
    log_tail: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """There is a result; `result_text` is result.json as it stands, `log` the capped run.log.

    The judge's where it `carries` the attempt's nonce: a supervisor that did not start the judge has no other sign.
    """

    slot_id: str
    run_id: str
    attempt: int
    result_text: str
    log: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The attempt is known to be dead and left no result that its judge vouched for, or none at all.

    `from_outside`: whatever it was doing, with its node, its slot's supervisor, or by a signal to its judge.
    """

    slot_id: str
    run_id: str
    attempt: int
    reason: str
    from_outside: bool = False


Report = Busy | Done | Lost


class Pool(Protocol):
    """Executor of runs. Every method may raise PoolProblem; none blocks for the length of a run."""

    def slots(self) -> tuple[Slot, ...]:
        """All slots, the broken ones included (with `problem`). Adding and losing nodes shows here."""

    def start(self, slot_id: str, order: RunOrder) -> None:
        """Start an attempt. Idempotent by order.key: a second start of the same attempt changes nothing."""

    def poll(self) -> tuple[Report, ...]:
        """One report for every attempt some slot knows and that was not acknowledged, finished ones included."""

    def acknowledge(self, slot_id: str, run_id: str, attempt: int) -> None:
        """The report is recorded (or refused): its spool may go."""

    def stop(self, slot_id: str, run_id: str, attempt: int) -> None:
        """End an attempt and everything it started. Returns once it is dead; unknown attempts are no error."""

    def close(self, *, stop_runs: bool) -> None:
        """Leave the pool. stop_runs=False lets runs on a cluster go on for the next driver to harvest."""


LONGEST_BUDGET_S = 7 * 86_400.0  # the longest a contract may ask for; for one that does not say
JUDGE_EXIT_CODES: dict[type[Verdict], int] = {Scored: 0, Infra: 1, Failed: 3}
JUDGE_SLACK_S = 120.0  # imports, waiting for the slot's lock, killing, removing large compile caches


def refusal(result: bytes | None, digest_line: bytes, exit_code: int | None, nonce: str) -> str:
    """Why the bytes of a result.json are not to be believed; "" when they are the judge's.

    A candidate may write to every file its judge writes to. What it cannot reach is the pipe between judge and
    supervisor and the judge's exit code; so those two decide, and the file has to agree with them.

    `digest_line`: everything that came through the judge's pipe until its end. `exit_code`: None when it is unknown.
    """
    if not digest_line:
        return "the judge ended without a result" if result is None else "the judge did not vouch for its result"
    if result is None or digest_line != f"{hashlib.sha256(result).hexdigest()} {nonce}\n".encode():
        return "its result.json is not the one the judge wrote"
    try:
        due = JUDGE_EXIT_CODES[type(parse_result(result.decode()).verdict)]
    except (ResultError, UnicodeDecodeError) as problem:
        return f"its result.json cannot be read: {problem}"
    return "" if exit_code == due else f"the judge did not end with exit code {due}, as its result says"


def carries(result_text: str, nonce: str) -> bool:
    """Whether a result says the nonce of its attempt, which no candidate can know; never where there is no nonce."""
    try:
        raw = json.loads(result_text)
    except (ValueError, RecursionError):
        return False
    return bool(nonce) and isinstance(raw, dict) and raw.get("nonce") == nonce


def longest_run_s(contract_json: str) -> float:
    """Wall seconds after which a judge cannot be at work any more: all limits of the contract, and slack."""
    try:
        contract = json.loads(contract_json)
        budget, limits = contract["budget"], contract["limits"]
        train_s = max(budget["wall_limit_s"], budget["seconds"] + budget["grace_s"])
        return float(limits["startup_s"] + train_s + limits["evaluation_s"] + limits["teardown_s"] + JUDGE_SLACK_S)
    except (ValueError, KeyError, TypeError):
        return LONGEST_BUDGET_S
