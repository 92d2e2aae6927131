"""How far two runs of the same code lie apart: one standard deviation for the lab, learned from its repeats.

The prior is the contract's, worth a few degrees of freedom, so the first night of a lab already has a noise. Pooling
assumes equal noise for every candidate; a wildly unsteady one is set aside. Does not compare candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from scheduler.domain.decision import Noise
from scheduler.domain.lab import Board

# A candidate whose runs scatter this many times more than is usual here diverges now and then: that says something of
# it and nothing of the others, and pooled in, one such pair would make every effect of the night look like noise.
WILD = 30.0

Scatter = tuple[float, int]  # sum of squares around the group's own mean, degrees of freedom


def pooled_noise(groups: Sequence[Sequence[float]], sigma0: float, prior_df: float) -> Noise:
    """sqrt((prior_df·sigma0² + SS) / (prior_df + df)); SS and df = Σ(n−1) within each group of scores (val_bpb).

    `sigma0` is the prior's standard deviation in bpb; either it and prior_df are positive, or some group has a scatter.
    """
    return _pooled([_scatter(tuple(scores)) for scores in groups], sigma0, prior_df)


def board_noise(board: Board) -> Noise:
    """The noise that decisions on this board are taken with: all repeats but those of wildly unsteady candidates."""
    sigma0, prior_df = board.noise_prior_bpb, board.gates.prior_df
    scatters = [_scatter(standing.scores) for standing in board.standings if standing.n > 1]
    bar = WILD**2 * _usual_variance(scatters, sigma0, prior_df)
    return _pooled([(squares, df) for squares, df in scatters if squares <= bar * df], sigma0, prior_df)


@lru_cache(maxsize=8192)
def _scatter(scores: tuple[float, ...]) -> Scatter:
    """Remembered: boards are asked for their noise at every decision, and most candidates have no new score."""
    if len(scores) < 2:
        return 0.0, 0
    mean = math.fsum(scores) / len(scores)
    return math.fsum((score - mean) ** 2 for score in scores), len(scores) - 1


def _pooled(scatters: Sequence[Scatter], sigma0: float, prior_df: float) -> Noise:
    squares = math.fsum(squares for squares, _ in scatters)
    df = sum(df for _, df in scatters)
    return Noise(math.sqrt((prior_df * sigma0**2 + squares) / (prior_df + df)), df)


def _usual_variance(scatters: Sequence[Scatter], sigma0: float, prior_df: float) -> float:
    """Median over degrees of freedom of the candidates' own variances, the prior's among them.

    A median, so that a few wild ones do not vouch for each other, and a prior far too small is outvoted in time.
    """
    weighed = sorted([(sigma0**2, prior_df), *((squares / df, float(df)) for squares, df in scatters)])
    half = sum(weight for _, weight in weighed) / 2
    below = accumulate(weight for _, weight in weighed)
    return next(variance for (variance, _), weight in zip(weighed, below, strict=True) if weight >= half)
