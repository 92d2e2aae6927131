"""A calibration: what the baseline scores on every slot with the same seeds, and which slots differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from scheduler.domain.decision import SlotOffset
from scheduler.domain.run import Finished, Measurements, Queued, Run, Running, Scored
from scheduler.domain.text import count, one_line
from scheduler.policy.calibration import SlotScore, estimate_offsets
from scheduler.views import View
from scheduler.views.facts import LabFacts


@dataclass(frozen=True, slots=True)
class CalibratedSlot(View):
    """One slot. `offset_bpb`: its scores against the mean of all slots, shrunken, with its error; `differs`: by more
    than two errors. Means over its runs, None where they were not measured; `speed` as a share of the calibrated one.
    """

    slot: str
    device: str
    runs: int
    val_bpb: float
    offset_bpb: float
    error_bpb: float
    differs: bool
    steps: float | None
    tokens_per_s: float | None
    speed: float | None


@dataclass(frozen=True, slots=True)
class CalibrationView(View):
    """`waiting`: runs of it that are queued or running; `failed`: without a score, or of another pool."""

    tag: str
    candidate: str
    name: str
    seeds: tuple[int, ...]
    waiting: int
    failed: int
    slots: tuple[CalibratedSlot, ...]
    sentence: str


def calibration_view(facts: LabFacts, candidate: str, runs: Sequence[Run]) -> CalibrationView:
    """Of all calibration runs of one candidate, those on record so far."""
    its = [run for run in runs if run.candidate_id == candidate]
    over = [run for run in its if isinstance(run.state, Finished)]
    scored = [run for run in over if _score(run) is not None]
    pool = next(iter(dict(Counter(run.pool for run in scored).most_common(1))), "")
    scored = [run for run in scored if run.pool == pool]
    slots = _slots(facts, scored)
    waiting = sum(isinstance(run.state, Queued | Running) for run in its)
    return CalibrationView(
        tag=facts.lab.tag,
        candidate=candidate,
        name=one_line(facts.name(candidate)),
        seeds=tuple(sorted({run.seed for run in its})),
        waiting=waiting,
        failed=len(over) - len(scored),
        slots=slots,
        sentence=_sentence(slots, waiting),
    )


def _slots(facts: LabFacts, scored: Sequence[Run]) -> tuple[CalibratedSlot, ...]:
    sigma, df = facts.lab.noise_prior_bpb, facts.lab.gates.prior_df
    if facts.noise is not None:
        sigma, df = facts.noise.sigma, df + facts.noise.df
    scores = [SlotScore(run.slot_id, run.seed, score) for run in scored if (score := _score(run)) is not None]
    return tuple(
        _slot(offset, [run for run in scored if run.slot_id == offset.slot_id])
        for offset in estimate_offsets(scores, sigma, df)
    )


def _slot(offset: SlotOffset, runs: Sequence[Run]) -> CalibratedSlot:
    measured = [run.state.result.measured for run in runs if isinstance(run.state, Finished)]
    return CalibratedSlot(
        slot=offset.slot_id,
        device=_device(measured),
        runs=len(runs),
        val_bpb=fmean(score for run in runs if (score := _score(run)) is not None),
        offset_bpb=offset.offset_bpb,
        error_bpb=offset.error_bpb,
        differs=offset.differs,
        steps=_mean(one.steps for one in measured),
        tokens_per_s=_mean(one.tokens_per_s for one in measured),
        speed=_mean(one.machine.speed for one in measured),
    )


def _device(measured: Sequence[Measurements]) -> str:
    return one_line(next((one.device for one in measured if one.device), ""))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _score(run: Run) -> float | None:
    verdict = run.state.result.verdict if isinstance(run.state, Finished) else None
    return verdict.val_bpb if isinstance(verdict, Scored) else None


def _sentence(slots: Sequence[CalibratedSlot], waiting: int) -> str:
    more = f"; {count(waiting, 'run')} of it still to come" if waiting else ""
    if len(slots) < 2:
        return f"nothing to compare: {count(len(slots), 'slot')} with a score{more}"
    far = [slot.slot for slot in slots if slot.differs]
    if not far:
        return f"no slot differs from the mean of {len(slots)} by more than two errors{more}"
    return f"{', '.join(far)} {'differs' if len(far) == 1 else 'differ'} by more than two errors{more}"
