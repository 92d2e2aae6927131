"""How much better a candidate is than a baseline, from the runs of both.

    P(better) = Φ((mean_base − mean_candidate) / se),   se = σ̂·√(1/n_candidate + 1/n_base)

P is over-confident where σ̂ is several times the usual gain. What follows from it is scheduler.policy.gates'.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

from scheduler.domain.candidate import Standing
from scheduler.domain.decision import Effect, Noise

_NORMAL = NormalDist()


def effect_of(candidate: Standing, base: Standing, noise: Noise) -> Effect:
    """Both must have a score. `shrunken` = diff·z²/(1+z²): what a selected winner keeps on fresh runs, on average."""
    diff, se = _difference(candidate, base, noise)
    z = diff / se
    return Effect(
        diff=diff,
        se=se,
        sigma=noise.sigma,
        n_candidate=candidate.n,
        n_base=base.n,
        p_better=_NORMAL.cdf(-z),
        shrunken=diff * z * z / (1 + z * z),
    )


def _difference(candidate: Standing, base: Standing, noise: Noise) -> tuple[float, float]:
    """With its standard error, both in bpb."""
    return candidate.mean - base.mean, noise.sigma * math.sqrt(1 / candidate.n + 1 / base.n)


def chance_not_worse(effect: Effect, margin_bpb: float) -> float:
    """P(true difference < margin): the chance that it is better, or worse by less than the margin."""
    return _NORMAL.cdf((margin_bpb - effect.diff) / effect.se)


def trusted_chance(candidate: Standing, base: Standing, noise: Noise) -> float:
    """P(better) that holds with the suspect scores and without them; 0 when it has no other scores."""
    chance = _chance(candidate, base, noise)
    if not candidate.suspect_scores:
        return chance
    trusted = without_suspects(candidate)
    return min(chance, _chance(trusted, base, noise)) if trusted.n else 0.0


def _chance(candidate: Standing, base: Standing, noise: Noise) -> float:
    diff, se = _difference(candidate, base, noise)
    return _NORMAL.cdf(-(diff / se))


def without_suspects(candidate: Standing) -> Standing:
    """The candidate if its lowest scores were the suspect ones and had never been measured."""
    return replace(candidate, scores=tuple(sorted(candidate.scores)[candidate.suspect_scores :]), suspect_scores=0)
