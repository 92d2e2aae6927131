"""How slots differ when each measures one program with the same seeds: the estimate, and which slot runs what.

    y = r(seed) + a(slot) + e,   a ~ N(0, t²·sigma²),  e ~ N(0, sigma²)

Seeds are fixed effects, because runs with one seed go on at about one time: what time and seed do to all slots alike
drops out. Slots are random effects (Henderson 1975, Laird & Ware 1982). Scores are val_bpb. Decides nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from scheduler.domain.decision import SlotOffset
from scheduler.domain.run import Queued, Run, Running

RATIOS = 40  # values of t that the estimate is averaged over


class SlotScore(NamedTuple):
    """One score of the program that is measured on all slots."""

    slot_id: str
    seed: int
    val_bpb: float


def estimate_offsets(scores: Sequence[SlotScore], sigma0: float, prior_df: float) -> tuple[SlotOffset, ...]:
    """Every slot's offset, in the order of the slots' names; sigma0 is the noise of runs known before, with prior_df.

    Posterior means and standard deviations. sigma² has a scaled inverse χ² prior and is integrated out; t has a half
    Cauchy prior of scale 1 (Gelman 2006), taken at its RATIOS quantiles and weighed by the likelihood of what is left
    within seeds. So few runs, or slots that differ by no more than runs do, are shrunk towards no difference.
    """
    import numpy as np

    slots = sorted({score.slot_id for score in scores})
    if len(slots) < 2:
        return tuple(SlotOffset(slot, 0.0, 0.0) for slot in slots)
    seeds = sorted({score.seed for score in scores})
    in_seed = np.array([[score.seed == seed for seed in seeds] for score in scores], dtype=float)  # (n, seeds)
    on_slot = np.array([[score.slot_id == slot for slot in slots] for score in scores], dtype=float)  # (n, slots)
    y = np.array([score.val_bpb for score in scores]) / sigma0
    means = in_seed / in_seed.sum(axis=0)
    y, on_slot = y - in_seed @ (means.T @ y), on_slot - in_seed @ (means.T @ on_slot)
    values, vectors = np.linalg.eigh(on_slot.T @ on_slot)
    values, along = values.clip(0), vectors.T @ (on_slot.T @ y)

    quantiles = (np.arange(RATIOS) + 0.5) / RATIOS
    ratio2 = np.tan(math.pi / 2 * quantiles)[:, None] ** 2  # t²
    spread = ratio2 / (1 + ratio2 * values)  # (ratios, slots): posterior variance along each direction, in sigma²
    total = prior_df + y @ y - (spread * along**2).sum(axis=1)
    df = prior_df + len(scores) - len(seeds)
    log_weight = -np.log1p(ratio2 * values).sum(axis=1) / 2 - df / 2 * np.log(total)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()

    contrasts = vectors - vectors.mean(axis=0)  # against the mean of all slots
    found = (spread * along) @ contrasts.T
    variance = (total / (df - 2))[:, None] * (spread @ (contrasts**2).T)
    mean = weight @ found
    error = np.sqrt(weight @ (variance + (found - mean) ** 2))
    return tuple(
        SlotOffset(slot, sigma0 * float(offset), sigma0 * float(e))
        for slot, offset, e in zip(slots, mean, error, strict=True)
    )


def pair_calibration(queued: Sequence[Run], free: Sequence[str], begun: Sequence[Run]) -> tuple[tuple[Run, str], ...]:
    """Queued runs of a calibration for free slots (ids): each gets the first seed that it has not begun."""
    measured = {(run.candidate_id, run.seed, run.slot_id) for run in begun}
    left, pairs = sorted(queued, key=lambda run: run.seed), []
    for slot in free:
        run = next((run for run in left if (run.candidate_id, run.seed, slot) not in measured), None)
        if run is not None:
            left.remove(run)
            pairs.append((run, slot))
    return tuple(pairs)


class CalibrationChange(NamedTuple):
    """What has to be queued, as (candidate, seed), and which queued runs no slot is left for."""

    add: tuple[tuple[str, int], ...]
    cancel: tuple[Run, ...]


def fit_to_slots(runs: Sequence[Run], usable: Sequence[str]) -> CalibrationChange:
    """So that a calibration that is under way has one run of each seed for every usable slot (id); `runs` are all its.

    A slot that has begun a seed and failed is not given it again. Without a usable slot nothing changes.
    """
    under_way = {run.candidate_id for run in runs if isinstance(run.state, Queued | Running)}
    add: list[tuple[str, int]] = []
    cancel: list[Run] = []
    if not usable:
        return CalibrationChange((), ())
    queued = Counter((run.candidate_id, run.seed) for run in runs if isinstance(run.state, Queued))
    begun = {(run.candidate_id, run.seed, run.slot_id) for run in runs}
    for candidate, seed in sorted({(run.candidate_id, run.seed) for run in runs if run.candidate_id in under_way}):
        wanted = sum((candidate, seed, slot) not in begun for slot in usable)
        spare = queued[candidate, seed] - wanted
        add += [(candidate, seed)] * -spare
        its = [run for run in runs if (run.candidate_id, run.seed) == (candidate, seed)]
        cancel += [run for run in its if isinstance(run.state, Queued)][::-1][: max(0, spare)]
    return CalibrationChange(tuple(add), tuple(cancel))
