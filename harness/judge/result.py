"""result.json: everything a run proved, in one file.

Covers: the format (all keys always present, null when unknown). Not covered: writing it (harness.judge.output).
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

RESULT_NAME = "result.json"
PROGRESS_NAME = "progress.json"
LOG_NAME = "run.log"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """clock: wall or cpu; used_s on that clock; train_wall_s is null when training never began."""

    clock: str
    limit_s: float
    used_s: float | None
    train_wall_s: float | None


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What the candidate said of its training: shown, never decided on.

    `loss_at`: share of the budget used, and the loss reported by then. `mfu`: share of the device's peak FLOP/s.
    """

    steps: int | None
    tokens: int | None
    tokens_per_s: float | None
    last_loss: float | None
    loss_at: tuple[tuple[float, float], ...]
    mfu: float | None


@dataclass(frozen=True, slots=True)
class Digests:
    """sha256 of the contract, of the prepared cache, and of train.py's bytes."""

    contract: str
    cache: str | None
    train_py: str


@dataclass(frozen=True, slots=True)
class Device:
    kind: str
    name: str | None
    uuid: str | None
    driver: str | None


@dataclass(frozen=True, slots=True)
class LogFile:
    file: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class Result:
    """Format 1. `probes` and `sandbox` are filled by checks beyond the score itself; empty and "none" without them.

    `exchange`: one of harness.exchange.EXCHANGE_NAMES, null when no buffer was opened. `compile_cache`: "seeded" when
    the run started with a copy of kept compile caches, else "cold".
    """

    status: str
    reason: str
    val_bpb: float | None
    val_bpb_upstream: float | None
    nats_per_token: float | None
    phases_s: dict[str, float | None]
    wall_s: float
    budget: BudgetUse
    training: TrainingReport
    peak_memory_mb: float | None
    seed: int
    digests: Digests
    attention: str | None
    exchange: str | None
    device: Device
    versions: dict[str, str | None]
    compile_cache: str
    containment: str
    sandbox: str
    probes: dict[str, float]
    log: LogFile
    exit_code: int | None
    started_at: str

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT} | _finite(dataclasses.asdict(self)), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON knows no NaN: what a candidate reports may be one."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
