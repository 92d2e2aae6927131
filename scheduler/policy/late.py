"""Candidates whose baseline has moved while they waited or ran: their effect on their own baseline is never lost.

One that beats the new baseline as clearly as a first run must is promoted; one that was clearly good on its own
baseline has its patch carried over (a port, measured anew); a near-miss is shelved, the rest dropped.
"""

from __future__ import annotations

from scheduler.domain.candidate import CandidateState, Standing
from scheduler.domain.decision import Combine, Discard, GateSettings, Noise, Promote, Shelve
from scheduler.policy.effects import effect_of, trusted_chance


def judge_late(
    candidate: Standing, base: Standing, own_base: Standing, noise: Noise, gates: GateSettings, may_port: bool
) -> Promote | Combine | Shelve | Discard:
    """`own_base` is the older baseline it was made from; both baselines have scores."""
    if trusted_chance(candidate, base, noise) >= gates.promote_now:
        against = effect_of(candidate, base, noise)
        reason = f"P(better) {against.p_better:.3f} ≥ {gates.promote_now:.2f} against a baseline newer than its own"
        return Promote(candidate.candidate_id, base.candidate_id, against, reason)
    own, chance = effect_of(candidate, own_base, noise), trusted_chance(candidate, own_base, noise)
    said = f"the baseline has moved; P(better) {own.p_better:.3f} against its own {own_base.candidate_id}"
    bar = gates.combine_from if candidate.state is CandidateState.CONTENDER else gates.repeat_from
    if may_port and chance >= bar:
        reason = f"{said} ≥ {bar:.2f}: its patch goes onto {base.candidate_id}"
        return Combine(base.candidate_id, (candidate.candidate_id,), 0, own.shrunken, reason)
    if chance >= gates.shelve_from and candidate.n >= gates.shelve_runs:
        reason = f"{said} ≥ {gates.shelve_from:.2f}: kept as a near-miss"
        return Shelve(candidate.candidate_id, own_base.candidate_id, own, reason)
    why = _why_dropped(own.p_better, chance, _lowest_bar(candidate, bar, gates, may_port))
    return Discard(candidate.candidate_id, own_base.candidate_id, own, said + why)


def _lowest_bar(candidate: Standing, port_from: float, gates: GateSettings, may_port: bool) -> float:
    """What it would have had to reach to be ported or kept."""
    if candidate.n < gates.shelve_runs:
        return port_from
    return min(port_from, gates.shelve_from) if may_port else gates.shelve_from


def _why_dropped(p_better: float, trusted: float, lowest: float) -> str:
    if p_better < lowest:
        return f" < {lowest:.2f}"
    return ", and suspect scores do not carry it" if trusted < lowest else ", and it was carried over often enough"
