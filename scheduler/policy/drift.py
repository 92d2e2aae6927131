"""Comparisons on a machine that drifts: what two programs' scores say of each other, and what repeats say of the drift.

    y = mu(program) + d(time, node) + s(slot) + r(seed) + e,   e ~ N(0, sigma²)

d is an Ornstein-Uhlenbeck process with variance drift² and correlation exp(−|Δt| / scale_s), each node's its own;
s ~ N(0, offset²) and r ~ N(0, seed_sd²). Programs are fixed effects, the rest is random (Laird & Ware 1982): contrasts
are generalized least squares, variances come from the likelihood of what is left within programs (REML, Patterson &
Thompson 1971). Scores are val_bpb. Decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING, Any

from scheduler.domain.candidate import CandidateStats, Occasion
from scheduler.domain.decision import Noise

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

Group = tuple[tuple[float, ...], tuple[Occasion, ...]]  # one candidate's scores, two or more, and their occasions

# Runs that this many run lengths lie between share 1/e of the drift. Loads come and go over tens of minutes, runs last
# minutes; what is faster scatters from run to run and is in sigma, a slower one is followed as well.
SCALE_RUNS = 8.0
MOST_RUNS = 80  # the newest repeated runs that the drift is judged by
LEAST_DF = 2  # of repeats; one pair says nothing of what it differs by

# Standard deviations as multiples of sigma, each with its prior weight: most machines do not drift, and a few a lot.
DRIFTS = ((0.0, 0.89), (1.0, 0.06), (2.0, 0.03), (4.0, 0.015), (10.0, 0.005))
OFFSETS = ((0.0, 0.90), (1.0, 0.07), (4.0, 0.03))
# Times the contract's seed_sd: none is found where it states none, because first runs that earned a repeat are lucky
# ones of one seed, and that looks the same.
SEEDS = ((0.0, 0.05), (0.5, 0.20), (1.0, 0.50), (2.0, 0.25))
# Posterior mass of "no drift, no offset" that counts as none; the prior has no more, so evidence of drift brings doubt.
STEADY = 0.8


def contrast(candidate: CandidateStats, base: CandidateStats, noise: Noise) -> tuple[float, float]:
    """Candidate minus baseline in bpb with its standard error, from the runs of the two alone. Both have a score.

    Best linear unbiased: a control near in time, on the same slot or with the same seed weighs more. Without a part of
    the noise that runs share, or without occasions, means are compared and the error is sigma·√(1/n + 1/n_base). A run
    that shares its time with one, its slot with another and its seed with a third may have a small negative weight.
    """
    if not _is_shared(noise) or not (candidate.occasions and base.occasions):
        return candidate.mean - base.mean, noise.sigma * math.sqrt(1 / candidate.n + 1 / base.n)
    return _least_squares(candidate.scores, base.scores, (*candidate.occasions, *base.occasions), noise)


def mean_error(stats: CandidateStats, noise: Noise) -> float:
    """Standard error of a candidate's mean in bpb, as of one program on any machine, time and seed. It has a score."""
    if not _is_shared(noise) or not stats.occasions:
        return noise.sigma / math.sqrt(stats.n)
    parts = zip((noise.drift, noise.offset, noise.seed_sd), _shared(stats.occasions, noise.scale_s), strict=True)
    shared = math.fsum(sd**2 * float(part.mean()) for sd, part in parts)
    return math.sqrt(noise.sigma**2 / stats.n + shared)


def scatter_within(programs: Sequence[CandidateStats], noise: Noise) -> float:
    """Sum of squares around each program's own mean, bpb², of runs made independent; its expectation is df·sigma²."""
    groups = [(stats.scores, stats.occasions) for stats in programs if stats.n > 1]
    if not _is_shared(noise) or not groups or not all(occasions for _, occasions in groups):
        return math.fsum((score - fmean(scores)) ** 2 for scores, _ in groups for score in scores)
    import numpy as np

    z, parts = _residuals(groups, noise.scale_s)
    ratios = np.array((noise.drift, noise.offset, noise.seed_sd)) / noise.sigma
    return float(z @ np.linalg.solve(np.eye(len(z)) + np.tensordot(ratios**2, parts, axes=1), z))


def _is_shared(noise: Noise) -> bool:
    """Whether some of it is common to several runs."""
    return bool(noise.drift or noise.offset or noise.seed_sd)


@lru_cache(maxsize=4096)
def _least_squares(
    ours: tuple[float, ...], theirs: tuple[float, ...], occasions: tuple[Occasion, ...], noise: Noise
) -> tuple[float, float]:
    import numpy as np

    n, shift = len(ours), fmean(theirs)  # shifted: differences are a thousandth of the scores
    is_ours = np.arange(n + len(theirs)) < n
    right = np.column_stack([is_ours, ~is_ours, np.array((*ours, *theirs)) - shift]).astype(float)
    parts = zip((noise.drift, noise.offset, noise.seed_sd), _shared(occasions, noise.scale_s), strict=True)
    covariance = noise.sigma**2 * np.eye(len(right)) + sum(sd**2 * part for sd, part in parts)
    normal = right[:, :2].T @ np.linalg.solve(covariance, right)
    (a, b), (_, d), (u, v) = normal[0, :2], normal[1, :2], normal[:, 2]
    det = a * d - b * b
    return float(((d + b) * u - (a + b) * v) / det), math.sqrt(float((a + d + 2 * b) / det))


@lru_cache(maxsize=512)
def estimate(
    groups: tuple[Group, ...], sigma0: float, prior_df: float, scale_s: float, prior_seed: float = 0.0
) -> Noise:
    """The noise by the repeats within each group; sigma0 and prior_seed are the contract's prior, sigma0 with prior_df.

    sigma² has a scaled inverse χ² prior and is integrated out; the other deviations are summed over a grid of ratios to
    it, weighed by prior and likelihood, and the posterior means of the variances returned. Where "no drift, no offset"
    has the mass STEADY both are exactly 0; otherwise the means are those of a machine that drifts.
    """
    import numpy as np

    ratios, prior = _grid(prior_seed / sigma0)
    z, parts = _residuals(groups, scale_s)
    log_det, squares = _factor(np.eye(len(z)) + np.tensordot(ratios**2, parts, axes=1), z / sigma0)
    total = prior_df + squares  # of sigma²/sigma0²'s posterior, with so many degrees:
    df = prior_df + len(z)
    log_weight = np.log(prior) - log_det / 2 - df / 2 * np.log(total)
    weight = np.exp(log_weight - log_weight.max())
    steady = ~ratios[:, :2].any(axis=1)
    is_steady = weight[steady].sum() >= STEADY * weight.sum()
    weight = np.where(steady == is_steady, weight, 0.0)
    variance = weight * total / df / weight.sum()
    drift, offset, seed_sd = (sigma0 * math.sqrt(float(v)) for v in variance @ ratios**2)
    return Noise(sigma0 * math.sqrt(float(variance.sum())), len(z), drift, offset, scale_s, seed_sd)


def newest(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups cut down to the newest MOST_RUNS runs, without those of which one run is left."""
    if sum(len(scores) for scores, _ in groups) > MOST_RUNS:
        since = sorted(occasion.at for _, occasions in groups for occasion in occasions)[-MOST_RUNS]
        groups = [_since(group, since) for group in groups]
    return tuple(group for group in groups if len(group[0]) > 1)


def _since(group: Group, at: float) -> Group:
    kept = [(score, occasion) for score, occasion in zip(*group, strict=True) if occasion.at >= at]
    return tuple(score for score, _ in kept), tuple(occasion for _, occasion in kept)


def _residuals(groups: Sequence[Group], scale_s: float) -> tuple[Array, Array]:
    """What is left within the groups (m,), bpb, and what drift, offset and seed share of it (3, m, m); m = Σ(n−1)."""
    import numpy as np

    scores = np.array([score for scores, _ in groups for score in scores])
    helmert = _within(tuple(len(scores) for scores, _ in groups))
    shared = _shared(tuple(occasion for _, occasions in groups for occasion in occasions), scale_s)
    return helmert @ (scores - scores.mean()), helmert @ shared @ helmert.T


def _shared(occasions: tuple[Occasion, ...], scale_s: float) -> Array:
    """(3, n, n): which share of drift, of offset and of seed_sd each two runs have in common, from 0 to 1."""
    import numpy as np

    at = np.array([occasion.at for occasion in occasions])
    node, slot, seed = (
        np.unique(values, return_inverse=True)[1].reshape(-1)
        for values in (
            [occasion.slot_id.rpartition("/")[0] for occasion in occasions],
            [occasion.slot_id for occasion in occasions],
            [occasion.seed for occasion in occasions],
        )
    )
    near = np.exp(-np.abs(at[:, None] - at) / scale_s) if scale_s else np.ones((len(at), len(at)))
    return np.stack([near * (node[:, None] == node), slot[:, None] == slot, seed[:, None] == seed]).astype(float)


def _within(sizes: tuple[int, ...]) -> Array:
    """Orthonormal rows (Helmert's) that span what is left of the runs once each group's mean is taken out."""
    import numpy as np

    rows, begin = np.zeros((sum(sizes) - len(sizes), sum(sizes))), 0
    row = 0
    for size in sizes:
        for k in range(1, size):
            rows[row, begin : begin + k] = 1 / math.sqrt(k * (k + 1))
            rows[row, begin + k] = -k / math.sqrt(k * (k + 1))
            row += 1
        begin += size
    return rows


def _grid(prior_seed: float) -> tuple[Array, Array]:
    """Every combination of (drift, offset, seed_sd), as multiples of sigma (g, 3), and its prior weight (g,)."""
    import numpy as np

    seeds = tuple((prior_seed * times, weight) for times, weight in SEEDS) if prior_seed else ((0.0, 1.0),)
    points = [(d, o, s) for d in DRIFTS for o in OFFSETS for s in seeds]
    ratios = np.array([[ratio for ratio, _ in point] for point in points])
    return ratios, np.array([math.prod(weight for _, weight in point) for point in points])


def _factor(covariances: Array, z: Array) -> tuple[Array, Array]:
    """log|M| and zᵀM⁻¹z of every M (g, m, m), both by one Cholesky factor: that of M with z as its last row."""
    import numpy as np

    m = len(z)
    bordered = np.zeros((len(covariances), m + 1, m + 1))
    bordered[:, :m, :m], bordered[:, m, :m], bordered[:, m, m] = covariances, z, 1 + z @ z  # M ≥ 1: still positive
    factor = np.linalg.cholesky(bordered)
    diagonal = np.diagonal(factor, axis1=1, axis2=2)[:, :m]
    return 2 * np.log(diagonal).sum(axis=1), (factor[:, m, :m] ** 2).sum(axis=1)
