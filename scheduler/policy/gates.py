"""The two gates: what a candidate's runs say about it against the baseline, and what to do next.

One run at P(better) ≥ promote_now promotes at once; P ≥ repeat_from earns a repeat with the next seed, and promotes at
P ≥ promote over all runs (promote_now where slots differ), both at drift_promote or more where the machine may drift or
was not alike for both, and at unsteady_promote where scores have shown a drift; below drop, or after max_runs, it is
dropped, or shelved when it is a near-miss. One that only those bars keep out has drift_runs more: what asks for more
evidence lets it come. Rules of their own: candidates of a stale baseline, those with less code, and a first score from
a machine unlike its controls'.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from scheduler.domain.candidate import CandidateState, CandidateStats
from scheduler.domain.decision import Combine, Discard, Effect, GateSettings, Noise, Promote, Replicate, Rule, Shelve
from scheduler.domain.text import count, probability
from scheduler.policy.controls import (
    explain_unlike,
    has_drifted,
    machines_differ,
    may_drift,
    slots_differ,
    unlike_controls,
)
from scheduler.policy.stats import effect_of, p_better_without_suspects, p_not_worse, without_suspects

FINE = 0.999  # bars above it, and what is held against them, are said with a digit more

GateVerdict = Promote | Replicate | Discard | Shelve | Combine

MAX_FAILED = 2  # runs of a candidate with a score: the first failure is retried, the second ends it


@lru_cache(maxsize=256)
def raised(gates: GateSettings, trials: int) -> GateSettings:
    """The bars once so many candidates were tried on a baseline: the chance of error that they allow goes down with it.

    It is halved by `halve_after` trials, a third after twice as many, and whole again with the next baseline. Where
    few ideas are gains more of those that look like one are luck (alpha-investing, Foster & Stine 2008).
    """
    if not gates.halve_after:
        return gates
    left = 1 / (1 + trials / gates.halve_after)
    now, over_repeats = (1 - left * (1 - bar) for bar in (gates.promote_now, gates.promote))
    return replace(gates, promote_now=now, promote=over_repeats)


def judge_candidate(
    candidate: CandidateStats,
    base: CandidateStats,
    noise: Noise,
    gates: GateSettings,
    own_base: CandidateStats | None = None,
    *,
    may_port: bool = True,
) -> GateVerdict:
    """The verdict on an undecided candidate with at least one score and no run on its way that matters.

    `base` is the current baseline, `own_base` the one it was made from where that is another; `may_port` is False for
    a patch that was carried to a newer baseline often enough.
    """
    if own_base is not None and gates.combine:
        return _stale_baseline(candidate, base, own_base, noise, gates, may_port)
    effect = effect_of(candidate, base, noise)
    if unlike_controls(candidate, base) and not _is_spent(candidate, gates):
        reason = f"suspect: machine, {explain_unlike(candidate, base)}: one more next to a fresh control"
        return Replicate(candidate.candidate_id, base.candidate_id, effect, reason, Rule.MACHINE)
    verdict = _two_gates(candidate, base, effect, noise, gates)
    if not isinstance(verdict, Discard):
        return verdict
    if simpler := _simplicity(candidate, base, effect, gates):
        return simpler
    p_better = p_better_without_suspects(candidate, base, noise)
    if not gates.combine or p_better < gates.shelve_from or candidate.n < gates.shelve_runs:
        return verdict
    reason = f"{verdict.reason}; kept as a near-miss (P ≥ {gates.shelve_from:.2f})"
    return Shelve(candidate.candidate_id, base.candidate_id, effect, reason)


def _two_gates(
    candidate: CandidateStats, base: CandidateStats, effect: Effect, noise: Noise, gates: GateSettings
) -> Promote | Replicate | Discard:
    about = (candidate.candidate_id, base.candidate_id, effect)
    # A first look asks for more than a look at a contender, whose first run already passed.
    first_look = candidate.n == 1 and candidate.state is not CandidateState.CONTENDER
    goes_on_at = gates.repeat_from if first_look else gates.drop
    promotes_at, trusted = promotion_bar(candidate, base, noise, gates), without_suspects(candidate)
    doubtful = candidate.suspect_scores > 0 and not (
        trusted.n and effect_of(trusted, base, noise).p_better >= promotion_bar(trusted, base, noise, gates)
    )
    if not doubtful and effect.p_better >= promotes_at:
        return Promote(*about, f"{_p(effect, promotes_at)} ≥ {_bar(promotes_at)} over {_runs(candidate)}")
    doubt, more_runs = "", 0
    if doubtful:
        doubt = ", and suspect scores do not promote by themselves"
    elif effect.p_better >= _usual_bar(candidate.n, gates):
        more_runs = gates.drift_runs
        doubt = f", and {_bar(promotes_at)} is asked where {_why_more(candidate, base, noise)}"
    after = f"after {_runs(candidate)}"
    if effect.p_better < goes_on_at:
        return Discard(*about, f"{_p(effect)} < {goes_on_at:.2f} {after}: not worth another")
    if _is_spent(candidate, gates, more_runs):
        return Discard(*about, f"{_p(effect, promotes_at)} {after}{doubt or ': no clear gain'}")
    which = "one more with the next seed" if candidate.n < gates.max_runs else "one more run"
    return Replicate(*about, f"{_p(effect, promotes_at)} {after}{doubt}: {which}")


def promotion_bar(candidate: CandidateStats, base: CandidateStats, noise: Noise, gates: GateSettings) -> float:
    """The P(better) that promotes it over the runs that it has, against the baseline it was made from."""
    bar = _usual_bar(candidate.n, gates)
    if has_drifted(noise):
        return max(bar, gates.unsteady_promote)
    if may_drift(noise) or machines_differ(candidate, base):
        return max(bar, gates.drift_promote)
    return max(bar, gates.promote_now) if slots_differ(noise) else bar


def _why_more(candidate: CandidateStats, base: CandidateStats, noise: Noise) -> str:
    if may_drift(noise):
        return "the machine drifts" if has_drifted(noise) else "the machine may drift"
    return "the machine was not alike for both" if machines_differ(candidate, base) else "slots differ"


def _usual_bar(n: int, gates: GateSettings) -> float:
    return gates.promote_now if n == 1 else _bar_of_repeats(gates)


def _bar_of_repeats(gates: GateSettings) -> float:
    return min(gates.promote, gates.promote_now)


def _simplicity(
    candidate: CandidateStats, base: CandidateStats, effect: Effect, gates: GateSettings
) -> Promote | Replicate | None:
    """What a candidate that would be dropped or shelved deserves for having less code; None when nothing.

    It is promoted when it is not worse: P(true difference < simpler_margin·sigma) at the bar of repeats, over
    two runs or more. One removal costs that margin at most, on average. Many are bounded: each has to leave fewer lines
    than the baseline has, a baseline that luck promoted has a mean too good for the next removal to hold against, and
    the claim counts whatever they cost.
    """
    lines = base.code_lines - candidate.code_lines if candidate.code_lines and base.code_lines else 0
    if lines <= 0 or gates.simpler_margin <= 0 or candidate.suspect_scores:
        return None
    p = p_not_worse(effect, gates.simpler_margin * effect.sigma)
    about = (candidate.candidate_id, base.candidate_id, effect)
    reason = f"simpler by {lines} line{'s' if lines > 1 else ''}, P(not worse) {probability(p, 3)}"
    reason += f" after {count(candidate.n, 'run')}"
    bar = _bar_of_repeats(gates)
    if candidate.n > 1 and p >= bar:
        return Promote(*about, f"{reason} ≥ {_bar(bar)}", Rule.SIMPLICITY)
    if not _is_spent(candidate, gates) and p >= (gates.repeat_from if candidate.n == 1 else 0.5):
        return Replicate(*about, f"{reason}: one more with the next seed", Rule.SIMPLICITY)
    return None


def _stale_baseline(
    candidate: CandidateStats,
    base: CandidateStats,
    own_base: CandidateStats,
    noise: Noise,
    gates: GateSettings,
    may_port: bool,
) -> Promote | Combine | Shelve | Discard:
    """The baseline moved while the candidate waited or ran: its effect on its own baseline is never lost.

    One that beats the new baseline as clearly as a first run must is promoted; one that was clearly good on its own has
    its patch carried over (a port, measured anew); a near-miss is shelved, the rest dropped. Both have scores.
    """
    rule = Rule.STALE_BASELINE
    bar = max(gates.promote_now, promotion_bar(candidate, base, noise, gates))
    if p_better_without_suspects(candidate, base, noise) >= bar and not unlike_controls(candidate, base):
        against = effect_of(candidate, base, noise)
        reason = f"{_p(against, bar)} ≥ {_bar(bar)} against a baseline newer than its own"
        return Promote(candidate.candidate_id, base.candidate_id, against, reason, rule)
    own, p = effect_of(candidate, own_base, noise), p_better_without_suspects(candidate, own_base, noise)
    about = (candidate.candidate_id, own_base.candidate_id, own)
    finding = f"the baseline has moved; {_p(own)} against its own {own_base.candidate_id}"
    port_from = gates.combine_from if candidate.state is CandidateState.CONTENDER else gates.repeat_from
    if may_port and p >= port_from:
        reason = f"{finding} ≥ {port_from:.2f}: its patch goes onto {base.candidate_id}"
        return Combine(base.candidate_id, (candidate.candidate_id,), 0, own.shrunken, reason, rule)
    measured = candidate.n >= gates.shelve_runs
    if p >= gates.shelve_from and measured:
        return Shelve(*about, f"{finding} ≥ {gates.shelve_from:.2f}: kept as a near-miss", rule)
    # The lowest bar it had to reach to be ported or kept.
    lowest = port_from if not measured else min(port_from, gates.shelve_from) if may_port else gates.shelve_from
    if own.p_better < lowest:
        return Discard(*about, f"{finding} < {lowest:.2f}", rule)
    why = "suspect scores do not carry it" if p < lowest else "it was carried over often enough"
    return Discard(*about, f"{finding}, and {why}", rule)


def _is_spent(candidate: CandidateStats, gates: GateSettings, more_runs: int = 0) -> bool:
    return candidate.n >= gates.max_runs + more_runs or candidate.failed_runs >= MAX_FAILED


def _p(effect: Effect, bar: float = 0.0) -> str:
    return f"P(better) {probability(effect.p_better, _places(bar))}"


def _bar(p: float) -> str:
    """Cut as P is, so that what passed it never reads as less."""
    return f"{p:.2f}" if round(p, 2) == p else probability(p, _places(p))


def _places(bar: float) -> int:
    return 4 if bar > FINE else 3


def _runs(candidate: CandidateStats) -> str:
    runs = f"{count(candidate.n, 'run')}"
    return f"{runs} and {candidate.failed_runs} failed" if candidate.failed_runs else runs
