"""Slots and what is said at the pool's door: orders go in, reports come out.

A slot is one whole GPU, or one CPU core for contracts that need no GPU. `Pool` is the door every executor implements:
Ray's actors on a cluster or a laptop, and a list in memory for tests. A pool holds no truth: the ledger does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for one run at a time.

    `pool` names what makes scores comparable (device model, driver, contract, cache); `boot_id` changes when the node
    restarts; `problem` says why nothing may be placed here now ("" when healthy).
    """

    id: str  # "node-a/gpu0" or "laptop/cpu1"
    node: str
    boot_id: str
    device: str  # "cpu" or "cuda"
    device_name: str
    pool: str
    cache_digest: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RunOrder:
    """All a node needs to judge one run: bytes and values, no paths, no git."""

    lab_id: str  # names the spool folder: two labs on one node do not mix
    run_id: str
    attempt: int
    train_py: bytes
    train_sha256: str
    contract_json: str
    cache_digest: str
    seed: int
    expect_attention: str | None = None

    @property
    def key(self) -> str:
        """Name of this attempt on its node, like "r0012.1"."""
        return f"{self.run_id}.{self.attempt}"


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
    """The attempt is known to be dead and left no result."""

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
