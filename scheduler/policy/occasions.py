"""What runs share by when, where and with which seed they were made, as matrices of a linear model.

Covers: shares of drift, offset and seed, how busy the core was, contrasts within groups, likelihoods of many models at
once. Knows no scores and no candidates; decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from scheduler.domain.candidate import Occasion

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

BUSIER = 1.5  # times as long: the core was others' for a third of the time that a run trained

Group = tuple[tuple[float, ...], tuple[Occasion, ...]]  # one candidate's scores, two or more, and their occasions


def residuals(groups: Sequence[Group], scale_s: float, *, smooth: bool) -> tuple[Array, Array]:
    """What is left within the groups (m,), bpb, and what drift, offset and seed share of it (3, m, m); m = Σ(n−1).

    `smooth`: as `shared`'s.
    """
    import numpy as np

    scores = np.array([score for scores, _ in groups for score in scores])
    helmert = _within(tuple(len(scores) for scores, _ in groups))
    parts = shared(tuple(occasion for _, occasions in groups for occasion in occasions), scale_s, smooth=smooth)
    return helmert @ (scores - scores.mean()), helmert @ parts @ helmert.T


def shared(occasions: tuple[Occasion, ...], scale_s: float, *, smooth: bool = False) -> Array:
    """(3, n, n): which share of drift, of offset and of seed_sd each two runs have in common, from 0 to 1.

    That of drift is exp(−|Δt| / scale_s), an Ornstein-Uhlenbeck process's; `smooth`: (1 + a)·exp(−a) with
    a = 3|Δt| / scale_s, Matérn's of order 3/2 (Rasmussen & Williams 2006, eq. 4.17), which is about as wide.
    """
    import numpy as np

    at = np.array([occasion.at for occasion in occasions])
    node = _numbered(occasion.slot_id.rpartition("/")[0] for occasion in occasions)
    slot = _numbered(occasion.slot_id for occasion in occasions)
    seed = _numbered(occasion.seed for occasion in occasions)
    lag = np.abs(at[:, None] - at) / scale_s if scale_s else np.zeros((len(at), len(at)))
    near = (1 + 3 * lag) * np.exp(-3 * lag) if smooth else np.exp(-lag)
    return np.stack([near * (node[:, None] == node), slot[:, None] == slot, seed[:, None] == seed]).astype(float)


def busyness(occasions: Sequence[Occasion], alone_s: float) -> Array:
    """(n,): logarithm of how many times as long a run trained as one that has its core alone, its speed taken out.

    0 for those that were as quick, or ended their training early, and where time or speed is not known.
    """
    import numpy as np

    times = np.array([training_s(occasion) or alone_s for occasion in occasions])
    return np.maximum(0.0, np.log(times / alone_s))


def training_s(occasion: Occasion) -> float | None:
    """Wall seconds of its training at the calibrated speed; None but under a clock in work."""
    return occasion.train_s * occasion.speed if occasion.train_s and occasion.speed else None


def _numbered(values: Iterable[object]) -> Array:
    """A number for each, equal where they are."""
    import numpy as np

    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values])


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


def factor(weights: Array, parts: Array, z: Array) -> tuple[Array, Array]:
    """log|M| and zᵀM⁻¹z (g,) of M = 1 + Σ weights·parts for every row of weights (g, k), of parts (k, m, m) and z (m,).

    Both by one Cholesky factor: that of M with z as its last row. One M at a time stays in the processor's cache.
    """
    import numpy as np

    m = len(z)
    log_det, squares = np.empty(len(weights)), np.empty(len(weights))
    one, bordered = np.eye(m), np.zeros((m + 1, m + 1))
    bordered[m, :m], bordered[m, m] = z, 1 + z @ z  # M ≥ 1: still positive
    for row, of_parts in enumerate(weights):
        bordered[:m, :m] = one + np.tensordot(of_parts, parts, axes=1)
        lower = np.linalg.cholesky(bordered)
        log_det[row], squares[row] = 2 * np.log(np.diagonal(lower)[:m]).sum(), lower[m, :m] @ lower[m, :m]
    return log_det, squares
