"""What a run proved: the judge's result.json parsed into a verdict and its measurements.

The verdict decides; measurements are shown. What the candidate reported of itself (steps, tokens, loss) sits among
the measurements and is never decided on. Reads text, not files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RESULT_FORMAT = 1


class ResultError(ValueError):
    """The text is not a result of a format this program knows."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The judge's own score. `suspect` holds the doubt ("" for none): such a score never promotes by itself."""

    val_bpb: float
    val_bpb_upstream: float | None
    suspect: str = ""

    @property
    def status(self) -> str:
        return f"suspect: {self.suspect}" if self.suspect else "ok"


@dataclass(frozen=True, slots=True)
class Failed:
    """The candidate's fault: crash, oom, no-eval, `timeout: …`, `invalid: …`. No score exists."""

    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Infra:
    """The lab's fault (`infra: …`): retried, never charged to the candidate."""

    status: str
    reason: str


Verdict = Scored | Failed | Infra


@dataclass(frozen=True, slots=True)
class Measurements:
    """Figures of one run; None where unknown. Seconds, tokens, MB (2**20 bytes)."""

    phases_s: tuple[tuple[str, float], ...] = ()
    wall_s: float | None = None
    budget_used_s: float | None = None
    steps: int | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    last_loss: float | None = None
    loss_at: tuple[tuple[float, float], ...] = ()  # share of the budget used, loss
    mfu: float | None = None  # share of the device's peak FLOP/s, as reported
    peak_memory_mb: float | None = None
    attention: str | None = None
    exchange: str | None = None  # how logits reached the judge
    device: str | None = None
    contract_digest: str = ""
    cache_digest: str = ""
    train_sha256: str = ""
    seed: int | None = None
    compile_cache: str | None = None  # cold or seeded


@dataclass(frozen=True, slots=True)
class Result:
    """One run's verdict, its measurements and the judge's text they were read from."""

    verdict: Verdict
    measured: Measurements
    text: str


def parse_result(text: str) -> Result:
    """Read a judge's result.json. Raises ResultError when it is not one."""
    try:
        raw = json.loads(text)
    except ValueError as problem:
        raise ResultError(f"result is not JSON: {problem}") from None
    if not isinstance(raw, dict) or raw.get("format") != RESULT_FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise ResultError(f"result format {found!r}, expected {RESULT_FORMAT}")
    return Result(_verdict(raw), _measured(raw), text)


def infra_result(word: str, reason: str) -> Result:
    """A result of the lab's own: no judge lived to write one."""
    status = f"infra: {word}"
    text = json.dumps({"format": RESULT_FORMAT, "status": status, "reason": reason})
    return Result(Infra(status, reason), Measurements(), text)


def _verdict(raw: Mapping[str, Any]) -> Verdict:
    status, reason = str(raw.get("status", "")), str(raw.get("reason") or "")
    family, _, detail = status.partition(": ")
    if family in ("ok", "suspect"):
        return _scored(raw, detail if family == "suspect" else "")
    if family == "infra":
        return Infra(status, reason)
    if family in ("invalid", "timeout", "crash", "oom", "no-eval"):
        return Failed(status, reason)
    raise ResultError(f"unknown status {status!r}")


def _scored(raw: Mapping[str, Any], doubt: str) -> Scored:
    score = raw.get("val_bpb")
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise ResultError(f"status {raw.get('status')!r} without a finite val_bpb")
    upstream = raw.get("val_bpb_upstream")
    return Scored(float(score), None if upstream is None else float(upstream), doubt)


def _measured(raw: Mapping[str, Any]) -> Measurements:
    training, budget = raw.get("training") or {}, raw.get("budget") or {}
    digests, device = raw.get("digests") or {}, raw.get("device") or {}
    phases = raw.get("phases_s") or {}
    return Measurements(
        phases_s=tuple((name, float(value)) for name, value in phases.items() if value is not None),
        wall_s=raw.get("wall_s"),
        budget_used_s=budget.get("used_s"),
        steps=training.get("steps"),
        tokens=training.get("tokens"),
        tokens_per_s=training.get("tokens_per_s"),
        last_loss=training.get("last_loss"),
        loss_at=tuple((float(share), float(loss)) for share, loss in training.get("loss_at") or ()),
        mfu=training.get("mfu"),
        peak_memory_mb=raw.get("peak_memory_mb"),
        attention=raw.get("attention"),
        exchange=raw.get("exchange"),
        device=device.get("name"),
        contract_digest=str(digests.get("contract") or ""),
        cache_digest=str(digests.get("cache") or ""),
        train_sha256=str(digests.get("train_py") or ""),
        seed=raw.get("seed"),
        compile_cache=raw.get("compile_cache"),
    )
