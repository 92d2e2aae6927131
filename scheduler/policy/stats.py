"""From scores to statements: the lab's noise, a candidate's effect on a baseline, and the claim of a search.

    sigma     = √((prior_df·sigma0² + SS) / (prior_df + df)), SS and df = Σ(n−1) within each candidate's scores
    P(better) = Φ(−diff / se),   diff = mean_candidate − mean_base,   se = sigma·√(1/n_candidate + 1/n_base)

where the machine is steady; where it drifts noise, diff and se are scheduler.policy.drift's, and in doubt the two are
weighed by their chances. Scores are val_bpb. Decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist, fmean

from scheduler.domain.candidate import CandidateStats
from scheduler.domain.decision import Claim, Effect, GateSettings, Noise
from scheduler.domain.lab import LabSnapshot
from scheduler.policy.drift import (
    DRIFTS,
    LEAST_DF,
    OFFSETS,
    SCALE_RUNS,
    contrast,
    estimate,
    hypotheses,
    is_unsteady,
    later_is_better,
    newest,
    scatter_within,
)
from scheduler.policy.occasions import training_s
from scheduler.policy.population import busy_core, first_scores, log_evidence, slot_offsets

# A candidate whose runs scatter this many times more than is usual here diverges now and then: that says something of
# it and nothing of the others, and pooled in, one such pair would make every effect of the lab look like noise.
WILD = 30.0
CLAIM_LEVEL = 0.95
NOISY = 3.0  # times the contract's sigma: of what the machine's state moves a score by
PRIOR_DF = GateSettings().prior_df

_NORMAL = NormalDist()
_Scatter = tuple[float, int]  # sum of squares around the group's own mean, degrees of freedom


def lab_noise(lab: LabSnapshot) -> Noise:
    """The noise that decisions are taken with: all repeats pooled, but those of wildly unsteady candidates.

    Pooling assumes equal noise for every candidate. The prior is the contract's, so a new lab already has a noise.
    """
    noise = _noise_of_repeats(lab)
    if not any(map(training_s, lab.baseline.occasions)):
        return noise
    busy = busy_core(first_scores(lab), lab.baseline.occasions, replace(noise, slots=()), lab.noise_prior_bpb)
    return replace(noise, busy=busy) if busy else noise


def _noise_of_repeats(lab: LabSnapshot) -> Noise:
    sigma0, prior_df = lab.noise_prior_bpb, lab.gates.prior_df
    scatters = {stats.candidate_id: _scatter(stats.scores) for stats in lab.standings if stats.n > 1}
    bar = WILD**2 * _usual_variance(scatters.values(), sigma0, prior_df)
    kept = {ref: (squares, df) for ref, (squares, df) in scatters.items() if squares <= bar * df}
    squares, df = math.fsum(squares for squares, _ in kept.values()), sum(df for _, df in kept.values())
    steady = Noise(math.sqrt((prior_df * sigma0**2 + squares) / (prior_df + df)), df)
    groups = newest([(s.scores, s.occasions) for s in lab.standings if s.candidate_id in kept and s.occasions])
    if not lab.run_s or sum(len(scores) - 1 for scores, _ in groups) < LEAST_DF:
        return replace(steady, seed_sd=lab.noise_prior_seed_bpb)
    firsts, scale_s = first_scores(lab), SCALE_RUNS * lab.run_s
    evidence = log_evidence(
        firsts, steady.sigma, tuple(sd for sd, _ in DRIFTS), tuple(sd for sd, _ in OFFSETS), scale_s
    )
    given = groups, sigma0, prior_df, scale_s, lab.noise_prior_seed_bpb, evidence
    noise = estimate(*given)
    if not (noise.drift or noise.offset) and later_is_better(lab.baseline, noise):
        noise = estimate(*given, has_stepped=True)
    if noise.offset:
        noise = replace(noise, slots=slot_offsets(firsts, noise.sigma, noise.drift, noise.offset, scale_s))
    return noise if noise.drift or noise.offset or noise.seed_sd else steady


@lru_cache(maxsize=8192)
def _scatter(scores: tuple[float, ...]) -> _Scatter:
    """Cached: the noise is asked for at every decision, and most candidates have no new score."""
    mean = fmean(scores)
    return math.fsum((score - mean) ** 2 for score in scores), len(scores) - 1


def _usual_variance(scatters: Iterable[_Scatter], sigma0: float, prior_df: float) -> float:
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
    """Both must have a score. `shrunken` = diff·z²/(1+z²): what a selected winner keeps on fresh runs, on average.

    Where the machine is in doubt P, diff and se are those of the mixture of its `hypotheses`.
    """
    cases = [(chance, *contrast(candidate, base, one)) for chance, one in hypotheses(noise)]
    diff = math.fsum(chance * mean for chance, mean, _ in cases)
    se = math.sqrt(math.fsum(chance * (sd**2 + (mean - diff) ** 2) for chance, mean, sd in cases))
    p_better = math.fsum(chance * _NORMAL.cdf(-mean / sd) for chance, mean, sd in cases)
    z = diff / se
    return Effect(diff, se, noise.sigma, candidate.n, base.n, p_better, shrunken=diff * z * z / (1 + z * z))


def undecided_below(noise: Noise, prior_bpb: float) -> float | None:
    """Effects in bpb below which this machine decides little, where its drift makes that NOISY times the contract's.

    Twice what the machine's state moves a score by; `prior_bpb` is the contract's sigma. None on a steadier machine.
    """
    moved = math.hypot(noise.drift, noise.offset)
    return 2 * moved if is_unsteady(noise) and moved >= NOISY * prior_bpb else None


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
    order = sorted(range(candidate.n), key=candidate.scores.__getitem__)[candidate.suspect_scores :]
    scores = tuple(candidate.scores[i] for i in order)
    occasions = tuple(candidate.occasions[i] for i in order) if candidate.occasions else ()
    return replace(candidate, scores=scores, occasions=occasions, suspect_scores=0)


def make_claim(first: CandidateStats, final: CandidateStats, noise: Noise, prior_df: float = PRIOR_DF) -> Claim:
    """How much better the last baseline is than the first. The two hold fresh runs of the claim and nothing else.

        diff, se = those of `effect_of` with σ̂ for sigma,   interval = diff ± t·se

    σ̂ pools the claim's own scatter with `noise`, the lab's with a prior of `prior_df` degrees: all estimate the same.
    t is Student's with their degrees of freedom. Fresh seeds make the interval honest: no run in it was selected.
    Without scores of both the difference is 0.
    """
    about = (first.candidate_id, final.candidate_id, first.scores, final.scores)
    if not first.n or not final.n:
        return Claim(*about, 0.0, 0.0, prior_df + noise.df, 0.0, 0.0)
    df = prior_df + noise.df + first.n + final.n - 2
    squares = (prior_df + noise.df) * noise.sigma**2 + scatter_within((first, final), noise)
    diff, se = contrast(final, first, _scaled(noise, math.sqrt(squares / df)))

    from scipy.stats import t  # imported here: it takes longer than most commands

    reach = float(t.ppf((1 + CLAIM_LEVEL) / 2, df)) * se
    return Claim(*about, diff, se, df, diff - reach, diff + reach)


def _scaled(noise: Noise, sigma: float) -> Noise:
    """With this sigma, and the other parts in the same proportion to it."""
    if not noise.sigma:
        return replace(noise, sigma=sigma)
    times = sigma / noise.sigma
    drift, offset, seed_sd = noise.drift * times, noise.offset * times, noise.seed_sd * times
    return replace(noise, sigma=sigma, drift=drift, offset=offset, seed_sd=seed_sd)
