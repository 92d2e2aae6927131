"""A run, one attempt at a score for one candidate with one seed on one slot, and what the judge's result.json proved.

    Queued ──lease──> Running ──result──> Finished
       │  ^              │
       │  └──lost/infra──┘ (a new attempt)
       └──> Cancelled <──┘

Each state carries its own data: a run that is running without a slot, or finished without a result, cannot be written
down. A verdict decides; measurements, what the candidate reported of itself among them, are only shown.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import count
from typing import Any

from scheduler.domain.errors import ArschedError

RESULT_FORMAT = 1
_OF_THE_RUN = ("wall_s", "peak_memory_mb", "attention", "exchange", "seed", "compile_cache", "sandbox", "containment")
_OF_THE_MACHINE = ("speed", "speed_low", "speed_high", "steal", "load", "throttled_share", "energy_j")
THROTTLED = "throttled"  # what a score is suspected of whose GPU was slowed down


class ResultError(ArschedError):
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
    """The lab's fault (`infra: …`): retried, and the candidate's only where two slots say it (policy/no_result.py)."""

    status: str
    reason: str


Verdict = Scored | Failed | Infra


@dataclass(frozen=True, slots=True)
class MachineReadings:
    """The machine while a run trained; None where it was not measured.

    `speed`: mean, lowest and highest of the core's speed, as shares of the calibrated one. `steal`: share of the wall
    time that the host gave to others; `load`: processes that wanted a core, mean. `gpu`: name, mean, lowest, highest of
    what NVML says (sm_mhz, memory_mhz, power_w, temperature_c); `throttled`: its reasons for lower clocks, and
    `throttled_share`: of the training that heat or power supply forced one. `energy_j`: joules of the whole run.
    """

    speed: float | None = None
    speed_low: float | None = None
    speed_high: float | None = None
    calibration: str = ""  # names the reference speed; "" without one
    steal: float | None = None
    load: float | None = None
    gpu: tuple[tuple[str, float, float, float], ...] = ()
    throttled: tuple[str, ...] = ()
    throttled_share: float | None = None
    energy_j: float | None = None


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
    launched: bool = False  # whether the candidate was started at all
    compile_cache: str | None = None  # cold or seeded
    sandbox: str | None = None  # the level that was reached
    containment: str | None = None  # how its processes were kept together
    machine: MachineReadings = MachineReadings()


@dataclass(frozen=True, eq=False)
class Result:
    """One run's verdict and the judge's text. The text is parsed for `measured` only when that is asked for.

    Results of any subclass are equal when both are.
    """

    verdict: Verdict
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and (self.verdict, self.text) == (other.verdict, other.text)

    def __hash__(self) -> int:
        return hash((self.verdict, self.text))

    @cached_property
    def measured(self) -> Measurements:
        """Raises ResultError when the text is not a result."""
        raw = _load(self.text)
        try:
            return _measurements(raw)
        except (AttributeError, TypeError, ValueError, OverflowError) as problem:
            raise ResultError(f"result with unreadable measurements: {problem}") from None


def parse_result(text: str) -> Result:
    """Read a judge's result.json, its measurements included. Raises ResultError when it is not one."""
    result = Result(_verdict(_load(text)), text)
    _ = result.measured  # refused here rather than by whoever shows it
    return result


def infra_result(word: str, reason: str) -> Result:
    """A result of the lab's own, where no judge wrote one."""
    return own_result(Infra(f"infra: {word}", reason))


def own_result(verdict: Infra | Failed) -> Result:
    """A verdict of the lab's own as a result."""
    raw = {"format": RESULT_FORMAT, "status": verdict.status, "reason": verdict.reason}
    return Result(verdict, json.dumps(raw))


def _load(text: str) -> Mapping[str, Any]:
    try:
        raw = json.loads(text)
    except ValueError as problem:
        raise ResultError(f"result is not JSON: {problem}") from None
    if not isinstance(raw, dict) or raw.get("format") != RESULT_FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise ResultError(f"result format {found!r}, expected {RESULT_FORMAT}")
    return raw


def _verdict(raw: Mapping[str, Any]) -> Verdict:
    status, reason = str(raw.get("status", "")), str(raw.get("reason") or "")
    family, _, detail = status.partition(": ")
    if family == "infra":
        return Infra(status, reason)
    if family in ("invalid", "timeout", "crash", "oom", "no-eval"):
        return Failed(status, reason)
    if family not in ("ok", "suspect"):
        raise ResultError(f"unknown status {status!r}")
    score, upstream = raw.get("val_bpb"), raw.get("val_bpb_upstream")
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise ResultError(f"status {status!r} without a finite val_bpb")
    return Scored(float(score), None if upstream is None else float(upstream), detail if family == "suspect" else "")


def _measurements(raw: Mapping[str, Any]) -> Measurements:
    training, digests, phases = raw.get("training") or {}, raw.get("digests") or {}, raw.get("phases_s") or {}
    return Measurements(
        phases_s=tuple((name, float(value)) for name, value in phases.items() if value is not None),
        budget_used_s=(raw.get("budget") or {}).get("used_s"),
        loss_at=tuple((float(share), float(loss)) for share, loss in training.get("loss_at") or ()),
        device=(raw.get("device") or {}).get("name"),
        contract_digest=str(digests.get("contract") or ""),
        cache_digest=str(digests.get("cache") or ""),
        train_sha256=str(digests.get("train_py") or ""),
        launched=raw.get("launched") is True,
        machine=_machine(raw.get("machine") or {}),
        **{name: training.get(name) for name in ("steps", "tokens", "tokens_per_s", "last_loss", "mfu")},
        **{name: raw.get(name) for name in _OF_THE_RUN},
    )


def _machine(raw: Mapping[str, Any]) -> MachineReadings:
    read = {name: _finite(raw.get(name)) for name in _OF_THE_MACHINE}
    gpu = ((str(name), [float(value) for value in values]) for name, values in (raw.get("gpu") or {}).items())
    return MachineReadings(
        **read,
        calibration=str(raw.get("calibration") or ""),
        gpu=tuple((name, mean, low, high) for name, (mean, low, high) in gpu),
        throttled=tuple(map(str, raw.get("throttled") or ())),
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


LATE_S = 60.0  # between a judge's end and its result: start and polls are seconds


def held_s(started_at: float, recorded_at: float, wall_s: float | None) -> float:
    """How long a run with a result had its slot, seconds. `wall_s` is how long its judge lived.

    By the clock of whoever recorded it; by the judge's where that one was set back meanwhile, or the result was fetched
    long after the end.
    """
    seconds = recorded_at - started_at
    if seconds >= 0 and (wall_s is None or seconds <= wall_s + LATE_S):
        return seconds
    return max(0.0, wall_s or 0.0)


class RunKind(StrEnum):
    """Why the run exists."""

    BASELINE = "baseline"  # measures the current baseline
    NEW = "new"  # a candidate's first run
    REPEAT = "repeat"  # another seed for a contender
    UNION = "union"  # first run of a candidate the scheduler merged
    CLAIM = "claim"  # first or last baseline at a search's end; counts for the claim alone, never for a decision
    AUDIT = "audit"  # a stored candidate scored again from scratch; counts for nothing
    CALIBRATION = "calibration"  # the baseline with one seed on every slot; counts for the comparison of slots alone

    @property
    def decides(self) -> bool:
        """Whether decisions are taken on its score."""
        return self not in (RunKind.CLAIM, RunKind.AUDIT, RunKind.CALIBRATION)


@dataclass(frozen=True, slots=True)
class Queued:
    since: float
    last_problem: str = ""  # why an earlier attempt did not count


@dataclass(frozen=True, slots=True)
class Running:
    attempt: int
    slot_id: str
    boot_id: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Finished:
    attempt: int
    slot_id: str
    started_at: float
    finished_at: float
    result: Result


@dataclass(frozen=True, slots=True)
class Cancelled:
    at: float
    reason: str


RunState = Queued | Running | Finished | Cancelled


@dataclass(frozen=True, slots=True)
class Run:
    """`id` is like "r0012"; `pool` names the kind of slot its score may be compared on ("" = not placed yet)."""

    id: str
    candidate_id: str
    kind: RunKind
    seed: int
    attempts: int
    pool: str
    state: RunState

    @property
    def slot_id(self) -> str:
        """Where it runs or ran; "" in every other state."""
        return self.state.slot_id if isinstance(self.state, Running | Finished) else ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One lease of a run on a slot, distinguished by its number (1, 2, …). `outcome` is "" while it lasts.

    Past `expires_at` (seconds since the epoch) a scheduler may hand the run to another slot; until one does, the
    attempt still holds the lease and its result counts.
    """

    number: int
    slot_id: str
    boot_id: str
    started_at: float
    expires_at: float
    ended_at: float | None = None
    outcome: str = ""  # a result's status, or lost, stopped, cancelled
    charge: str = ""  # what it says against the candidate, where it gave no result that counts


def next_seed(had: Sequence[int], others: Collection[int], pending: Collection[int] = (), within: int = 0) -> int:
    """The first seed (1, 2, 3, …) that a program has not `had`, and once it has had `within` of them the one of those
    that it has had least often. `others`: never this one; `pending`: not again while a run with it is on its way.
    """
    fresh = next(seed for seed in count(1) if seed not in had and seed not in others)
    known = [seed for seed in range(1, within + 1) if seed not in others and seed not in pending]
    times = Counter(had)
    return fresh if fresh <= within or not known else min(known, key=lambda seed: (times[seed], seed))
