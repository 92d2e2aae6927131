"""The two gates: what a candidate's runs say about it against the baseline, and what to do next.

    P(better) = Φ((mean_base − mean_candidate) / se),   se = σ̂·√(1/n_candidate + 1/n_base)

One run at P ≥ promote_now promotes at once; P ≥ repeat_from earns a repeat with a fresh seed, and promotes at
P ≥ promote over all runs; below drop, or after max_runs, it is dropped. One candidate against one baseline; which
candidate is looked at first is scheduler.policy.decide's. P is over-confident where σ̂ is several times the usual gain.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

from scheduler.domain.candidate import CandidateState, Standing
from scheduler.domain.decision import Discard, Effect, GateSettings, Noise, Promote, Replicate

MAX_FAILED = 2  # runs of a candidate with a score: the first failure is retried, the second ends it

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
    said = f"P(better) {effect.p_better:.3f}"
    parties = (candidate.candidate_id, base.candidate_id, effect)
    promotes_at, goes_on_at = _promotion_bar(candidate.n, gates), _continuation_bar(candidate, gates)
    trusted = not candidate.suspect_scores or _passes_without_suspects(candidate, base, noise, gates)
    doubt = "" if trusted else ", and suspect scores do not promote by themselves"
    if trusted and effect.p_better >= promotes_at:
        return Promote(*parties, f"{said} ≥ {promotes_at:.2f} over {_runs(candidate)}")
    if effect.p_better < goes_on_at:
        return Discard(*parties, f"{said} < {goes_on_at:.2f} after {_runs(candidate)}: not worth another")
    if _is_spent(candidate, gates):
        return Discard(*parties, f"{said} after {_runs(candidate)}{doubt or ': no clear gain'}")
    return Replicate(*parties, f"{said} after {_runs(candidate)}{doubt}: one more with a fresh seed")


def _promotion_bar(n: int, gates: GateSettings) -> float:
    return gates.promote_now if n == 1 else min(gates.promote, gates.promote_now)


def _continuation_bar(candidate: Standing, gates: GateSettings) -> float:
    """A first look asks for more than a look at a contender, whose first run already passed."""
    first_look = candidate.n == 1 and candidate.state is not CandidateState.CONTENDER
    return gates.repeat_from if first_look else gates.drop


def _passes_without_suspects(candidate: Standing, base: Standing, noise: Noise, gates: GateSettings) -> bool:
    """Whether it would promote if its lowest scores were the suspect ones and had never been measured."""
    trusted = tuple(sorted(candidate.scores)[candidate.suspect_scores :])
    if not trusted:
        return False
    alone = effect_of(replace(candidate, scores=trusted), base, noise)
    return alone.p_better >= _promotion_bar(len(trusted), gates)


def _is_spent(candidate: Standing, gates: GateSettings) -> bool:
    return candidate.n >= gates.max_runs or candidate.failed_runs >= MAX_FAILED


def _runs(candidate: Standing) -> str:
    runs = f"{candidate.n} run{'s' if candidate.n > 1 else ''}"
    return f"{runs} and {candidate.failed_runs} failed" if candidate.failed_runs else runs
