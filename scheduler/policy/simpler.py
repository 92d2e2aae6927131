"""Removals: a candidate with fewer lines of code that is not worse than the baseline is an improvement.

Asked only of one that would be dropped or shelved. Not worse means P(true difference < simpler_margin·σ̂) at the bars of
the two gates, over two runs or more. The margin is a fraction of the noise: one removal costs that much at most, on
average. Many of them are bounded because each has to leave fewer lines than the baseline has, because a baseline that
luck promoted has a mean that is too good and the next removal has to hold against it, and by the claim, which counts
whatever they cost.
"""

from __future__ import annotations

from scheduler.domain.candidate import Standing
from scheduler.domain.decision import Effect, GateSettings, Promote, Replicate
from scheduler.policy.effects import chance_not_worse


def judge_simpler(
    candidate: Standing, base: Standing, effect: Effect, gates: GateSettings, spent: bool
) -> Promote | Replicate | None:
    """What a candidate that is no clear gain deserves for its brevity; None when it deserves nothing."""
    lines = lines_saved(candidate, base)
    if not lines or gates.simpler_margin <= 0 or candidate.suspect_scores:
        return None
    chance = chance_not_worse(effect, gates.simpler_margin * effect.sigma)
    said = f"simpler by {lines} line{'s' if lines > 1 else ''}, P(not worse) {chance:.3f} after {candidate.n} run"
    said += "s" if candidate.n > 1 else ""
    parties = (candidate.candidate_id, base.candidate_id, effect)
    if candidate.n > 1 and chance >= gates.promote:
        return Promote(*parties, f"{said} ≥ {gates.promote:.2f}")
    if not spent and chance >= (gates.repeat_from if candidate.n == 1 else 0.5):
        return Replicate(*parties, f"{said}: one more with a fresh seed")
    return None


def lines_saved(candidate: Standing, base: Standing) -> int:
    """How many lines of code fewer than the baseline; 0 when not fewer, or not counted."""
    if not candidate.code_lines or not base.code_lines:
        return 0
    return max(0, base.code_lines - candidate.code_lines)
