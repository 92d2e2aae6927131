"""Slots and what is said at the pool's door: orders go in, reports come out.

A slot is one whole GPU, or one CPU core for contracts that need no GPU. `Pool` is the door every executor implements:
Ray's actors on a cluster or a laptop, and a list in memory for tests. A pool holds no truth: the ledger does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol


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


@dataclass(frozen=True, slots=True)
class RunOrder:
    """All a node needs to judge one run: bytes and values, no paths, no git.

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
    expect_attention: str | None = None
    compile_key: str = ""
    may_keep_caches: bool = False

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
    """The judge wrote its result; `result_text` is result.json as it stands, `log` the capped run.log."""

    slot_id: str
    run_id: str
    attempt: int
    result_text: str
    log: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The attempt is known to be dead and left no result that its judge vouched for."""

    slot_id: str
    run_id: str
    attempt: int
    reason: str


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
