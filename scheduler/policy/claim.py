"""The claim: how much better the last baseline is than the first, from fresh runs of both and nothing else.

    diff = mean(final) − mean(first),   se = σ̂·√(1/n_final + 1/n_first),   interval = diff ± t·se

σ̂ pools the claim's own scatter with the lab's repeats and the contract's prior, all of which estimate the same noise;
t is Student's with their degrees of freedom. Fresh seeds make the interval honest: no run in it was selected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scheduler.domain.claim import Claim
from scheduler.domain.decision import GateSettings, Noise

LEVEL = 0.95
PRIOR_DF = GateSettings().prior_df


def make_claim(
    first_id: str,
    final_id: str,
    first_scores: Sequence[float],
    final_scores: Sequence[float],
    noise: Noise,
    prior_df: float = PRIOR_DF,
) -> Claim:
    """`noise` is the lab's, pooled with a prior of `prior_df` degrees. Without scores of both the difference is 0."""
    first, final = tuple(first_scores), tuple(final_scores)
    if not first or not final:
        return Claim(first_id, final_id, first, final, 0.0, 0.0, prior_df + noise.df, 0.0, 0.0)
    df = prior_df + noise.df + len(first) + len(final) - 2
    squares = (prior_df + noise.df) * noise.sigma**2 + _scatter(first) + _scatter(final)
    se = math.sqrt(squares / df * (1 / len(first) + 1 / len(final)))
    diff = _mean(final) - _mean(first)
    reach = _student(df) * se
    return Claim(first_id, final_id, first, final, diff, se, df, diff - reach, diff + reach)


def _student(df: float) -> float:
    """The quantile that leaves half of 1 − LEVEL above it."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, df))


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _scatter(scores: Sequence[float]) -> float:
    mean = _mean(scores)
    return math.fsum((score - mean) ** 2 for score in scores)
