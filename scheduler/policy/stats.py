"""From scores to statements: the lab's noise, a candidate's effect on a baseline, and the claim of a search.

    sigma     = √((prior_df·sigma0² + SS) / (prior_df + df)), SS and df = Σ(n−1) within each candidate's scores
    P(better) = Φ((mean_base − mean_candidate) / se),   se = sigma·√(1/n_candidate + 1/n_base)

Scores are val_bpb. P is over-confident where sigma is several times the usual gain. Decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist, fmean

from scheduler.domain.candidate import CandidateStats
from scheduler.domain.decision import Claim, Effect, GateSettings, Noise
from scheduler.domain.lab import LabSnapshot

# A candidate whose runs scatter this many times more than is usual here diverges now and then: that says something of
# it and nothing of the others, and pooled in, one such pair would make every effect of the lab look like noise.
WILD = 30.0
CLAIM_LEVEL = 0.95
PRIOR_DF = GateSettings().prior_df

_NORMAL = NormalDist()
_Scatter = tuple[float, int]  # sum of squares around the group's own mean, degrees of freedom


def lab_noise(lab: LabSnapshot) -> Noise:
    """The noise that decisions are taken with: all repeats pooled, but those of wildly unsteady candidates.

    Pooling assumes equal noise for every candidate. The prior is the contract's, so a new lab already has a noise.
    """
    sigma0, prior_df = lab.noise_prior_bpb, lab.gates.prior_df
    scatters = [_scatter(stats.scores) for stats in lab.standings if stats.n > 1]
    bar = WILD**2 * _usual_variance(scatters, sigma0, prior_df)
    kept = [(squares, df) for squares, df in scatters if squares <= bar * df]
    squares, df = math.fsum(squares for squares, _ in kept), sum(df for _, df in kept)
    return Noise(math.sqrt((prior_df * sigma0**2 + squares) / (prior_df + df)), df)


@lru_cache(maxsize=8192)
def _scatter(scores: tuple[float, ...]) -> _Scatter:
    """Cached: the noise is asked for at every decision, and most candidates have no new score."""
    mean = fmean(scores)
    return math.fsum((score - mean) ** 2 for score in scores), len(scores) - 1


def _usual_variance(scatters: Sequence[_Scatter], sigma0: float, prior_df: float) -> float:
    """Median over degrees of freedom of the candidates' own variances, the prior's among them.

    A median, so that a few wild ones do not vouch for each other, and a prior far too small is outvoted in time. Equal
    scores do not vote: next to a variance of zero every honest one would count as wild.
    """
    scattered = [(squares / df, float(df)) for squares, df in scatters if squares > 0]
    weighed = sorted([(sigma0**2, prior_df), *scattered])
    half = sum(weight for _, weight in weighed) / 2
    below = accumulate(weight for _, weight in weighed)
    return next(variance for (variance, _), weight in zip(weighed, below, strict=True) if weight >= half)


def effect_of(candidate: CandidateStats, base: CandidateStats, noise: Noise) -> Effect:
    """Both must have a score. `shrunken` = diff·z²/(1+z²): what a selected winner keeps on fresh runs, on average."""
    diff = candidate.mean - base.mean
    se = noise.sigma * math.sqrt(1 / candidate.n + 1 / base.n)
    z = diff / se
    return Effect(diff, se, noise.sigma, candidate.n, base.n, _NORMAL.cdf(-z), shrunken=diff * z * z / (1 + z * z))


def p_not_worse(effect: Effect, margin_bpb: float) -> float:
    """P(true difference < margin): the chance that it is better, or worse by less than the margin."""
    return _NORMAL.cdf((margin_bpb - effect.diff) / effect.se)


def p_better_without_suspects(candidate: CandidateStats, base: CandidateStats, noise: Noise) -> float:
    """P(better) that holds with the suspect scores and without them; 0 when it has no other scores."""
    p = effect_of(candidate, base, noise).p_better
    if not candidate.suspect_scores:
        return p
    trusted = without_suspects(candidate)
    return min(p, effect_of(trusted, base, noise).p_better) if trusted.n else 0.0


def without_suspects(candidate: CandidateStats) -> CandidateStats:
    """The candidate if its lowest scores were the suspect ones and had never been measured."""
    return replace(candidate, scores=tuple(sorted(candidate.scores)[candidate.suspect_scores :]), suspect_scores=0)


def make_claim(
    first_id: str,
    final_id: str,
    first_scores: Sequence[float],
    final_scores: Sequence[float],
    noise: Noise,
    prior_df: float = PRIOR_DF,
) -> Claim:
    """How much better the last baseline is than the first, from fresh runs of both and nothing else.

        diff = mean(final) − mean(first),   se = σ̂·√(1/n_final + 1/n_first),   interval = diff ± t·se

    σ̂ pools the claim's own scatter with `noise`, the lab's with a prior of `prior_df` degrees: all estimate the same.
    t is Student's with their degrees of freedom. Fresh seeds make the interval honest: no run in it was selected.
    Without scores of both the difference is 0.
    """
    first, final = tuple(first_scores), tuple(final_scores)
    if not first or not final:
        return Claim(first_id, final_id, first, final, 0.0, 0.0, prior_df + noise.df, 0.0, 0.0)
    df = prior_df + noise.df + len(first) + len(final) - 2
    squares = (prior_df + noise.df) * noise.sigma**2 + _scatter(first)[0] + _scatter(final)[0]
    se = math.sqrt(squares / df * (1 / len(first) + 1 / len(final)))
    diff = fmean(final) - fmean(first)

    from scipy.stats import t  # imported here: it takes longer than most commands

    reach = float(t.ppf((1 + CLAIM_LEVEL) / 2, df)) * se
    return Claim(first_id, final_id, first, final, diff, se, df, diff - reach, diff + reach)
