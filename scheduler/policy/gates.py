"""The two gates: what a candidate's runs say about it against the baseline, and what to do next.

    P(better) = Φ((mean_base − mean_candidate) / se),   se = σ̂·√(1/n_candidate + 1/n_base)

One run at P ≥ promote_now promotes at once; P ≥ repeat_from earns a repeat with a fresh seed, and promotes at
P ≥ promote over all runs; below drop, or after max_runs, it is dropped. One candidate against one baseline; which
candidate is looked at first is scheduler.policy.decide's.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from scheduler.domain.candidate import Standing
from scheduler.domain.decision import Discard, Effect, GateSettings, Noise, Promote, Replicate

_NORMAL = NormalDist()


def effect_of(candidate: Standing, base: Standing, noise: Noise) -> Effect:
    """Both must have a score. `shrunken` = diff·z²/(1+z²): what a selected winner keeps on fresh runs, on average."""
    diff = candidate.mean - base.mean
    se = noise.sigma * math.sqrt(1 / candidate.n + 1 / base.n)
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


def judge_candidate(
    candidate: Standing, base: Standing, noise: Noise, gates: GateSettings
) -> Promote | Replicate | Discard:
    """The verdict on an undecided candidate with at least one score and no run on its way."""
    effect = effect_of(candidate, base, noise)
    ids = (candidate.candidate_id, base.candidate_id, effect)
    p, trusted = effect.p_better, candidate.n - candidate.suspect_scores
    if trusted and _passes(candidate, p, gates):
        return Promote(*ids, reason=_promotion_reason(candidate, p, gates))
    if _spent(candidate, gates):
        return Discard(*ids, reason=f"P(better) {p:.2f} after {candidate.n} runs: within noise")
    if p < (gates.repeat_from if candidate.n == 1 else gates.drop):
        return Discard(*ids, reason=f"P(better) {p:.2f}: {'not better' if effect.diff >= 0 else 'within noise'}")
    why = "its score is suspect" if not trusted else f"P(better) {p:.2f} is short of promotion"
    return Replicate(*ids, reason=f"{why}: one more run with a fresh seed")


def _passes(candidate: Standing, p: float, gates: GateSettings) -> bool:
    return p >= (gates.promote_now if candidate.n == 1 else min(gates.promote, gates.promote_now))


def _spent(candidate: Standing, gates: GateSettings) -> bool:
    return candidate.n + candidate.failed_runs >= gates.max_runs


def _promotion_reason(candidate: Standing, p: float, gates: GateSettings) -> str:
    if candidate.n == 1:
        return f"P(better) {p:.3f} ≥ {gates.promote_now} on its first run"
    return f"P(better) {p:.3f} ≥ {gates.promote} over {candidate.n} runs"
