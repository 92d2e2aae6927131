"""The two gates: what a candidate's runs say about it against the baseline, and what to do next.

One run at P(better) ≥ promote_now promotes at once; P ≥ repeat_from earns a repeat with a fresh seed, and promotes at
P ≥ promote over all runs; below drop, or after max_runs, it is dropped, or shelved when it is a near-miss. One
candidate against one baseline; which candidate is looked at first is scheduler.policy.decide's, one whose baseline has
moved scheduler.policy.late's.
"""

from __future__ import annotations

from scheduler.domain.candidate import CandidateState, Standing
from scheduler.domain.decision import Combine, Discard, Effect, GateSettings, Noise, Promote, Replicate, Shelve
from scheduler.policy.effects import effect_of, trusted_chance, without_suspects
from scheduler.policy.late import judge_late
from scheduler.policy.simpler import judge_simpler

__all__ = ["MAX_FAILED", "Verdict", "effect_of", "judge_candidate"]

Verdict = Promote | Replicate | Discard | Shelve | Combine

MAX_FAILED = 2  # runs of a candidate with a score: the first failure is retried, the second ends it


def judge_candidate(
    candidate: Standing,
    base: Standing,
    noise: Noise,
    gates: GateSettings,
    own_base: Standing | None = None,
    *,
    may_port: bool = True,
) -> Verdict:
    """The verdict on an undecided candidate with at least one score and no run on its way that matters.

    `base` is the current baseline, `own_base` the one it was made from where that is another; `may_port` is False for
    a patch that was carried to a newer baseline often enough.
    """
    if own_base is not None and gates.combine:
        return judge_late(candidate, base, own_base, noise, gates, may_port)
    effect = effect_of(candidate, base, noise)
    verdict = _judge(candidate, base, effect, noise, gates)
    if not isinstance(verdict, Discard):
        return verdict
    spent = _is_spent(candidate, gates)
    simpler = judge_simpler(candidate, base, effect, gates, spent)
    return simpler or _keep_near_miss(verdict, effect, trusted_chance(candidate, base, noise), gates)


def _judge(
    candidate: Standing, base: Standing, effect: Effect, noise: Noise, gates: GateSettings
) -> Promote | Replicate | Discard:
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


def _keep_near_miss(verdict: Discard, effect: Effect, chance: float, gates: GateSettings) -> Discard | Shelve:
    if not gates.combine or chance < gates.shelve_from or effect.n_candidate < gates.shelve_runs:
        return verdict
    reason = f"{verdict.reason}; kept as a near-miss (P ≥ {gates.shelve_from:.2f})"
    return Shelve(verdict.candidate_id, verdict.base_id, effect, reason)


def _promotion_bar(n: int, gates: GateSettings) -> float:
    return gates.promote_now if n == 1 else min(gates.promote, gates.promote_now)


def _continuation_bar(candidate: Standing, gates: GateSettings) -> float:
    """A first look asks for more than a look at a contender, whose first run already passed."""
    first_look = candidate.n == 1 and candidate.state is not CandidateState.CONTENDER
    return gates.repeat_from if first_look else gates.drop


def _passes_without_suspects(candidate: Standing, base: Standing, noise: Noise, gates: GateSettings) -> bool:
    trusted = without_suspects(candidate)
    return trusted.n > 0 and effect_of(trusted, base, noise).p_better >= _promotion_bar(trusted.n, gates)


def _is_spent(candidate: Standing, gates: GateSettings) -> bool:
    return candidate.n >= gates.max_runs or candidate.failed_runs >= MAX_FAILED


def _runs(candidate: Standing) -> str:
    runs = f"{candidate.n} run{'s' if candidate.n > 1 else ''}"
    return f"{runs} and {candidate.failed_runs} failed" if candidate.failed_runs else runs
