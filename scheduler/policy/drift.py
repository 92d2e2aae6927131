"""Comparisons on a machine that drifts: what two programs' scores say of each other, and what repeats say of the drift.

    y = mu(program) + d(time, node) + s(slot) + r(seed) + e,   e ~ N(0, sigma²)

d is a process with variance drift², each node's its own; s ~ N(0, offset²); r ~ N(0, seed_sd²); what is known of a slot
and of a busy core is taken out first. Programs are fixed effects, the rest is random (Laird & Ware 1982): contrasts are
generalized least squares, variances come from the likelihood of what is left within programs (REML, Patterson &
Thompson 1971). The likelihood takes d for smooth: for a rough one, repeats one after the other that agree would make a
slow wave look smaller. Contrasts take it for rough (Ornstein-Uhlenbeck): errors grow from the first minute on, and
nothing is extrapolated from two runs to a third. Scores are val_bpb. Decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING, Any

from scheduler.domain.candidate import CandidateStats, Occasion
from scheduler.domain.decision import Noise
from scheduler.policy.occasions import Group, busyness, factor, residuals, shared

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

# Runs that this many run lengths lie between share 1/e of a rough drift. Loads come and go over an hour or two, runs
# last minutes; what is faster scatters from run to run and is in sigma, a slower one is followed as well.
SCALE_RUNS = 24.0
MOST_RUNS = 80  # the newest repeated runs that the drift is judged by
LEAST_DF = 2  # of repeats; one pair says nothing of what it differs by

# Standard deviations as multiples of sigma, each with its prior weight: most machines do not drift, and a few a lot.
DRIFTS = ((0.0, 0.82), (1.0, 0.09), (2.0, 0.055), (4.0, 0.03), (10.0, 0.005))
OFFSETS = ((0.0, 0.93), (1.0, 0.05), (4.0, 0.02))
# Times the contract's seed_sd: none is found where it states none, because first runs that earned a repeat are lucky
# ones of one seed, and that looks the same.
SEEDS = ((0.0, 0.05), (0.5, 0.20), (1.0, 0.50), (2.0, 0.25))
# Posterior mass of "no drift, no offset" that counts as none. The prior has less: a lab begins in doubt, where both
# `hypotheses` count, until repeats and the first scores of ideas settle it.
STEADY = 0.92
# Standard errors by which a baseline's later runs are better than its earlier ones, split where they differ most, from
# which no steady machine is believed in: in the minutes after a step down the likelihood, of all repeats, is too slow.
STEPPED = 2.0
SHOWN = 0.5  # chance of drift or offset from which it is said


def contrast(candidate: CandidateStats, base: CandidateStats, noise: Noise) -> tuple[float, float]:
    """Candidate minus baseline in bpb with its standard error, from the runs of the two. Both have a score.

    Best linear unbiased: a control near in time, on the same slot or with the same seed weighs more. Without a part of
    the noise that runs share, or without occasions, means are compared and the error is sigma·√(1/n + 1/n_base). A run
    that shares its time with one, its slot with another and its seed with a third may have a small negative weight.
    What a busy core adds is held against the candidate only: one that idles looks busier than it was, and one that ends
    its training early less so.
    """
    if not _is_shared(noise) or not (candidate.occasions and base.occasions):
        return candidate.mean - base.mean, noise.sigma * math.sqrt(1 / candidate.n + 1 / base.n)
    runs = candidate.scores, base.scores, (*candidate.occasions, *base.occasions)
    diff, se = _least_squares(*runs, noise)
    if noise.busy:
        diff = max(diff, _least_squares(*runs, replace(noise, busy=replace(noise.busy, added_bpb=0.0)))[0])
    return diff, se


def hypotheses(noise: Noise) -> tuple[tuple[float, Noise], ...]:
    """What the machine may be, each with its chance: one whose state moves scores, and a steady one.

    sigma and seed_sd are those of the former for both: the latter's would be slightly larger.
    """
    if noise.p_unsteady >= 1 or not (noise.drift or noise.offset):
        return ((1.0, noise),)
    steady = replace(noise, drift=0.0, offset=0.0, slots=())
    return ((noise.p_unsteady, noise), (1 - noise.p_unsteady, steady))


def mean_error(stats: CandidateStats, noise: Noise) -> float:
    """Standard error of a candidate's mean in bpb, as of one program on any machine, time and seed. It has a score.

    Where the machine is in doubt its square is the mean of those of the `hypotheses`.
    """
    return math.sqrt(math.fsum(chance * _variance_of_mean(stats, one) for chance, one in hypotheses(noise)))


def _variance_of_mean(stats: CandidateStats, noise: Noise) -> float:
    if not _is_shared(noise) or not stats.occasions:
        return noise.sigma**2 / stats.n
    return noise.sigma**2 / stats.n + float(_common(stats.occasions, noise).mean())


def scatter_within(programs: Sequence[CandidateStats], noise: Noise) -> float:
    """Sum of squares around each program's own mean, bpb², of runs made independent; its expectation is df·sigma²."""
    groups = [(stats.scores, stats.occasions) for stats in programs if stats.n > 1]
    if not _is_shared(noise) or not groups or not all(occasions for _, occasions in groups):
        return math.fsum((score - fmean(scores)) ** 2 for scores, _ in groups for score in scores)
    import numpy as np

    z, parts = residuals(groups, noise.scale_s, smooth=False)
    ratios = np.array((noise.drift, noise.offset, noise.seed_sd)) / noise.sigma
    return float(z @ np.linalg.solve(np.eye(len(z)) + np.tensordot(ratios**2, parts, axes=1), z))


def later_is_better(base: CandidateStats, noise: Noise) -> bool:
    """Whether the later runs of one program are better than its earlier ones, so that what is newer looks better, too.

    Both are plain means, split at the time where they differ most (Hinkley 1970). Of a steady machine's noise.
    """
    if not base.occasions:
        return False
    runs = zip(base.occasions, base.scores, strict=True)
    scores = [score for _, score in sorted((occasion.at, score) for occasion, score in runs)]
    least = STEPPED * math.hypot(noise.sigma, noise.seed_sd)
    splits = ((scores[:i], scores[i:]) for i in range(1, len(scores)))
    return any(fmean(old) - fmean(new) >= least * math.sqrt(1 / len(old) + 1 / len(new)) for old, new in splits)


def is_unsteady(noise: Noise) -> bool:
    """Whether runs have shown that the machine's state moves scores, more than a lab begins to doubt."""
    return bool(noise.drift or noise.offset) and noise.p_unsteady >= SHOWN


def _is_shared(noise: Noise) -> bool:
    """Whether some of it is common to several runs."""
    return bool(noise.drift or noise.offset or noise.seed_sd or noise.busy)


@lru_cache(maxsize=4096)
def _least_squares(
    ours: tuple[float, ...], theirs: tuple[float, ...], occasions: tuple[Occasion, ...], noise: Noise
) -> tuple[float, float]:
    import numpy as np

    n, shift = len(ours), fmean(theirs)  # shifted: differences are a thousandth of the scores
    is_ours = np.arange(n + len(theirs)) < n
    known = {slot.slot_id: slot.offset_bpb for slot in noise.slots}
    added = np.array([known.get(occasion.slot_id, 0.0) for occasion in occasions])
    if noise.busy:
        added += noise.busy.added_bpb * busyness(occasions, noise.busy.alone_s)
    right = np.column_stack([is_ours, ~is_ours, np.array((*ours, *theirs)) - shift - added]).astype(float)
    covariance = noise.sigma**2 * np.eye(len(right)) + _common(occasions, noise)
    normal = right[:, :2].T @ np.linalg.solve(covariance, right)
    (a, b), (_, d), (u, v) = normal[0, :2], normal[1, :2], normal[:, 2]
    det = a * d - b * b
    return float(((d + b) * u - (a + b) * v) / det), math.sqrt(float((a + d + 2 * b) / det))


def _common(occasions: tuple[Occasion, ...], noise: Noise) -> Array:
    """(n, n): covariance of what runs have in common, bpb²; of a known slot and a busy core what is not known of it."""
    import numpy as np

    near, slot, seed = shared(occasions, noise.scale_s)
    known = {slot.slot_id: slot.error_bpb for slot in noise.slots}
    left = np.array([known.get(occasion.slot_id, noise.offset) for occasion in occasions])
    common: Array = noise.drift**2 * near + np.outer(left, left) * slot + noise.seed_sd**2 * seed
    if noise.busy:
        busy = noise.busy.error_bpb * busyness(occasions, noise.busy.alone_s)
        common += np.outer(busy, busy)
    return common


@lru_cache(maxsize=512)
def estimate(
    groups: tuple[Group, ...],
    sigma0: float,
    prior_df: float,
    scale_s: float,
    prior_seed: float = 0.0,
    evidence: tuple[float, ...] = (),
    has_stepped: bool = False,
) -> Noise:
    """The noise by the repeats within each group; sigma0 and prior_seed are the contract's prior, sigma0 with prior_df.

    `evidence`: log likelihood by other runs of each of DRIFTS with each of OFFSETS, the latter first to change.

    sigma² has a scaled inverse χ² prior and is integrated out; the other deviations are summed over a grid of ratios to
    it, weighed by prior and likelihood, and the posterior means of the variances returned. Where "no drift, no offset"
    has the mass STEADY both are exactly 0; otherwise the means are those of a machine with a drift or an offset, and
    where the baseline `has_stepped` with a drift.
    """
    import numpy as np

    ratios, prior = _grid(prior_seed / sigma0)
    z, parts = residuals(groups, scale_s, smooth=True)
    log_det, squares = factor(ratios**2, parts, z / sigma0)
    total = prior_df + squares  # of sigma²/sigma0²'s posterior, with so many degrees:
    df = prior_df + len(z)
    log_weight = np.log(prior) - log_det / 2 - df / 2 * np.log(total)
    if evidence:
        log_weight += np.repeat(evidence, len(log_weight) // len(evidence))  # the seed is the last to change
    weight = np.exp(log_weight - log_weight.max())
    steady = ~ratios[:, :2].any(axis=1)
    p_steady = float(weight[steady].sum() / weight.sum())
    is_steady = p_steady >= STEADY
    weight = np.where(ratios[:, 0] > 0 if has_stepped else steady == is_steady, weight, 0.0)
    variance = weight * total / df / weight.sum()
    drift, offset, seed_sd = (sigma0 * math.sqrt(float(v)) for v in variance @ ratios**2)
    sigma = sigma0 * math.sqrt(float(variance.sum()))
    p_unsteady = 1 - min(p_steady, float(prior[steady].sum())) if has_stepped else 1 - p_steady
    return Noise(sigma, len(z), drift, offset, scale_s, seed_sd, p_unsteady=p_unsteady)


def newest(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups cut down to the newest MOST_RUNS runs, without those of which one run is left."""
    if sum(len(scores) for scores, _ in groups) > MOST_RUNS:
        since = sorted(occasion.at for _, occasions in groups for occasion in occasions)[-MOST_RUNS]
        groups = [_since(group, since) for group in groups]
    return tuple(group for group in groups if len(group[0]) > 1)


def _since(group: Group, at: float) -> Group:
    kept = [(score, occasion) for score, occasion in zip(*group, strict=True) if occasion.at >= at]
    return tuple(score for score, _ in kept), tuple(occasion for _, occasion in kept)


def _grid(prior_seed: float) -> tuple[Array, Array]:
    """Every combination of (drift, offset, seed_sd), as multiples of sigma (g, 3), and its prior weight (g,)."""
    import numpy as np

    seeds = tuple((prior_seed * times, weight) for times, weight in SEEDS) if prior_seed else ((0.0, 1.0),)
    points = [(d, o, s) for d in DRIFTS for o in OFFSETS for s in seeds]
    ratios = np.array([[ratio for ratio, _ in point] for point in points])
    return ratios, np.array([math.prod(weight for _, weight in point) for point in points])
