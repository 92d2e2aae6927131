"""What the first scores of all ideas say of the machine: which slots are slower, what a busy core adds, and whether its
state moves scores.

    y = m(baseline) + idea + d(time, node) + s(slot) + b·busyness + e

Slots are given to ideas without looking at them, so first scores that are worse on one slot tell of the slot. Over time
ideas may get better or worse by themselves: what moves with time is the machine's or the ideas', and the chance of the
latter (IDEAS_TREND) bounds what such scores may add to the evidence of repeats, so they raise doubt and controls settle
it. Effects of ideas have long tails: each is cut off at CUT robust deviations. Scores are val_bpb. Decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import median

from scheduler.domain.candidate import FirstScore, Occasion
from scheduler.domain.decision import BusyCore, Noise, SlotOffset
from scheduler.domain.lab import LabSnapshot
from scheduler.policy.occasions import BUSIER, Group, busyness, factor, residuals, shared, training_s

FIRSTS_PER_SLOT = 13  # the newest: as many run lengths, however many slots there are from LEAST_SLOTS on
LEAST_SLOTS = 8
MOST_FIRSTS = 256  # milliseconds for every decision
LEAST_FIRSTS = 16  # fewer say nothing
LEAST_ON_SLOT = 8  # for a median of its own
STEP = 4  # looked at anew after so many more
IDEAS_TREND = 0.05  # chance that ideas by themselves get better and worse over time as a drifting machine's scores do
CUT = 2.5  # robust standard deviations
PRIOR_DF = 4.0  # of the spread of ideas, of which a robust guess is the prior
_MAD = 1.4826  # times the median absolute deviation is the standard deviation of a normal distribution


def first_scores(lab: LabSnapshot) -> tuple[FirstScore, ...]:
    """The newest first scores of ideas whose occasion is known, oldest first; merges are no new ideas."""
    standing = [
        FirstScore(one.scores[0], one.base_id, one.occasions[0])
        for one in lab.standings
        if one.scores and one.occasions and one.base_id and not one.origin.merged
    ]
    found = sorted((*lab.firsts_left_out, *standing), key=lambda first: (first.occasion.at, first.occasion.slot_id))
    end = len(found) // STEP * STEP
    newest = found[max(0, end - MOST_FIRSTS) : end]
    slots = max(LEAST_SLOTS, len({first.occasion.slot_id for first in newest}))
    return tuple(newest[-min(MOST_FIRSTS, FIRSTS_PER_SLOT * slots) :])


@lru_cache(maxsize=512)
def log_evidence(
    firsts: tuple[FirstScore, ...], sigma: float, drifts: tuple[float, ...], offsets: tuple[float, ...], scale_s: float
) -> tuple[float, ...]:
    """Log likelihood of each drift with each offset, the latter first to change; both in multiples of sigma (bpb).

    The spread of ideas is integrated out. Of no drift it is no less than IDEAS_TREND times that of the likeliest drift.
    `drifts` holds 0.
    """
    import numpy as np

    groups = _by_baseline(firsts)
    if sum(len(values) for values, _ in groups) < LEAST_FIRSTS:
        return (0.0,) * (len(drifts) * len(offsets))
    spread = max(sigma, _spread(groups))
    z, parts = residuals(groups, scale_s, smooth=True)  # of one seed, mostly: it drops out within a group
    weights = np.array([(d * d, o * o) for d in drifts for o in offsets]) * (sigma / spread) ** 2
    log_det, squares = factor(weights, parts[:2], z / spread)
    table = (-log_det / 2 - (PRIOR_DF + len(z)) / 2 * np.log(PRIOR_DF + squares)).reshape(len(drifts), len(offsets))
    steady, likeliest = table[drifts.index(0.0)], table.max(axis=0)
    table[drifts.index(0.0)] = np.logaddexp(steady + math.log(1 - IDEAS_TREND), likeliest + math.log(IDEAS_TREND))
    return tuple((table - table.max()).ravel().tolist())


@lru_cache(maxsize=512)
def slot_offsets(
    firsts: tuple[FirstScore, ...], sigma: float, drift: float, offset: float, scale_s: float
) -> tuple[SlotOffset, ...]:
    """What each slot adds to a score by the first scores there; of sd `offset` between slots, drift and sigma in bpb.

    Best linear unbiased predictions with the spread of ideas as noise (Henderson 1975); none where slots are alike.
    """
    import numpy as np

    groups = _by_baseline(firsts)
    if not offset or sum(len(values) for values, _ in groups) < LEAST_FIRSTS:
        return ()
    occasions = tuple(one for _, measured in groups for one in measured)
    y = np.array([value for values, _ in groups for value in values])
    slots = sorted({one.slot_id for one in occasions})
    of_group = np.repeat(np.eye(len(groups)), [len(values) for values, _ in groups], axis=0)
    on_slot = np.array([[one.slot_id == slot for slot in slots] for one in occasions], dtype=float)
    design = np.hstack([on_slot, of_group])
    near, _, _ = shared(occasions, scale_s)
    covariance = max(sigma, _spread(groups)) ** 2 * np.eye(len(y)) + drift**2 * near
    normal = design.T @ np.linalg.solve(covariance, np.column_stack([design, y]))
    among = slice(0, len(slots))
    normal[among, among] += np.eye(len(slots)) / offset**2
    inverse = np.linalg.inv(normal[:, :-1])
    found, sd = (inverse @ normal[:, -1])[among], np.sqrt(np.diag(inverse))[among]
    return tuple(map(SlotOffset, slots, found.tolist(), sd.tolist()))


@lru_cache(maxsize=512)
def busy_core(
    firsts: tuple[FirstScore, ...], controls: tuple[Occasion, ...], noise: Noise, prior_bpb: float
) -> BusyCore | None:
    """What a busy core adds by the first scores, of prior N(0, prior_bpb²); `controls` are the baseline's occasions.

    Best linear unbiased prediction with the spread of ideas as noise. None where every run had its core alone.
    """
    import numpy as np

    occasions = (*controls, *(first.occasion for first in firsts))
    times = sorted(found for occasion in occasions if (found := training_s(occasion)))
    if not times or times[-1] < BUSIER * (alone_s := times[len(times) // 10]):
        return None
    groups = _by_baseline(firsts)
    if sum(len(values) for values, _ in groups) < LEAST_FIRSTS:
        return BusyCore(0.0, prior_bpb, alone_s)
    measured = tuple(one for _, of_group in groups for one in of_group)
    y = np.array([value for values, _ in groups for value in values])
    of_group = np.repeat(np.eye(len(groups)), [len(values) for values, _ in groups], axis=0)
    design = np.column_stack([busyness(measured, alone_s), of_group])
    near, slot, _ = shared(measured, noise.scale_s)
    covariance = max(noise.sigma, _spread(groups)) ** 2 * np.eye(len(y))
    covariance += noise.drift**2 * near + noise.offset**2 * slot
    normal = design.T @ np.linalg.solve(covariance, np.column_stack([design, y]))
    normal[0, 0] += 1 / prior_bpb**2
    inverse = np.linalg.inv(normal[:, :-1])
    return BusyCore(float(inverse[0] @ normal[:, -1]), math.sqrt(float(inverse[0, 0])), alone_s)


def _by_baseline(firsts: Sequence[FirstScore]) -> list[Group]:
    """Scores of the ideas made from each baseline as distances from their median, two or more.

    Their long tails are cut off around the median of their slot, lest a slow slot be taken for bad ideas.
    """
    groups: dict[str, list[FirstScore]] = {}
    for first in firsts:
        groups.setdefault(first.base_id, []).append(first)
    groups = {base_id: group for base_id, group in groups.items() if len(group) > 1}
    middles = {base_id: median(one.score for one in group) for base_id, group in groups.items()}
    by_slot: dict[str, list[float]] = {}
    for base_id, group in groups.items():
        for one in group:
            by_slot.setdefault(one.occasion.slot_id, []).append(one.score - middles[base_id])
    usual = {slot_id: median(values) for slot_id, values in by_slot.items() if len(values) >= LEAST_ON_SLOT}
    left = [abs(value - usual.get(slot_id, 0.0)) for slot_id, values in by_slot.items() for value in values]
    most = CUT * _MAD * median(left) if left else 0.0

    def cut(value: float, slot_id: str) -> float:
        middle = usual.get(slot_id, 0.0)
        return middle + max(-most, min(most, value - middle))

    return [
        (
            tuple(cut(one.score - middles[base_id], one.occasion.slot_id) for one in group),
            tuple(one.occasion for one in group),
        )
        for base_id, group in groups.items()
    ]


def _spread(groups: Sequence[Group]) -> float:
    """Robust standard deviation of what ideas measured one after the other differ by: no drift is in it."""
    steps = []
    for values, occasions in groups:
        order = sorted(range(len(values)), key=lambda i: (occasions[i].at, occasions[i].slot_id))
        steps += [abs(values[i] - values[j]) for i, j in pairwise(order)]
    return _MAD * median(steps) / math.sqrt(2)
