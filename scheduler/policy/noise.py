"""How far two runs of the same code lie apart: one standard deviation for the lab, learned from its repeats.

The prior is the contract's, worth a few degrees of freedom, so the first night of a lab already has a noise. Pooling
assumes equal noise for every candidate. Does not compare candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scheduler.domain.decision import Noise
from scheduler.domain.lab import Board


def pooled_noise(groups: Sequence[Sequence[float]], sigma0: float, prior_df: float) -> Noise:
    """sqrt((prior_df·sigma0² + SS) / (prior_df + df)); SS and df = Σ(n−1) within each group of scores (val_bpb)."""
    squares, df = 0.0, 0
    for scores in groups:
        if len(scores) > 1:
            mean = math.fsum(scores) / len(scores)
            squares += math.fsum((score - mean) ** 2 for score in scores)
            df += len(scores) - 1
    return Noise(math.sqrt((prior_df * sigma0**2 + squares) / (prior_df + df)), df)


def board_noise(board: Board) -> Noise:
    """The noise that decisions on this board are taken with."""
    return pooled_noise([s.scores for s in board.standings], board.noise_prior_bpb, board.gates.prior_df)
