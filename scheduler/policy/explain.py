"""Decisions as sentences, with every number they were taken from. Bits per byte; negative effects are better.

Explains what was decided; decides nothing.
"""

from __future__ import annotations

import math

from scheduler.domain.claim import Claim
from scheduler.domain.decision import (
    Combine,
    Decision,
    Discard,
    Effect,
    MeasureBaseline,
    Promote,
    Replicate,
    Retry,
    Shelve,
)

_CLEAR = 2.0  # standard errors; less is called noise


def explain_decision(decision: Decision, name: str) -> str:
    """One line. `name` is the candidate's, or the baseline's where the baseline is measured."""
    match decision:
        case Promote(candidate_id=ref, effect=effect, reason=reason):
            why = f"  {_one_line(reason)}" if "simpler by" in reason else ""
            return f"promoted  {ref} {name}  {describe_effect(effect)}  {_expected(effect)}{why}"
        case Replicate(candidate_id=ref, effect=effect):
            return f"repeat    {ref} {name}  {describe_effect(effect)}  {_expected(effect)}; one more run"
        case Discard(candidate_id=ref, effect=Effect() as effect, reason=reason):
            said = _verdict(effect) or _one_line(reason)
            return f"dropped   {ref} {name}  {describe_effect(effect)}  {_expected(effect)}; {said}"
        case Shelve(candidate_id=ref, effect=effect):
            return f"shelved   {ref} {name}  {describe_effect(effect)}  {_expected(effect)}; kept for a union"
        case Discard(candidate_id=ref, reason=reason):
            return f"failed    {ref} {name}  {_one_line(reason)}"
        case Combine(parts=parts, base_id=base, predicted=predicted, reason=reason):
            kind = "port " if len(parts) == 1 else "union"
            whole = f"{kind}     {' + '.join(parts)} onto {base}  predicted {signed(predicted)}"
            return f"{whole}  {_one_line(reason)}"
        case MeasureBaseline(base_id=ref, reason=reason):
            return f"baseline  {ref} {name}  one more run: {reason}"
        case Retry(candidate_id=ref, reason=reason):
            return f"retry     {ref} {name}  {_one_line(reason)}"


def describe_effect(effect: Effect) -> str:
    """`−0.0130 ± 0.0050 (2 runs vs 3)  P(better)=0.99`"""
    runs = f"{_runs(effect.n_candidate)} vs {effect.n_base}"
    return f"{signed(effect.diff)} ± {effect.se:.4f} ({runs})  P(better)={_probability(effect.p_better)}"


def describe_claim(claim: Claim) -> str:
    """`1.0032 → 0.9741, −0.0291 ± 0.0008 (4 + 4 runs)`: means and difference over the claim's fresh runs alone."""
    first, final = claim.first_scores, claim.final_scores
    if not first or not final:
        return "nothing to claim"
    means = f"{sum(first) / len(first):.4f} → {sum(final) / len(final):.4f}"
    return f"{means}, {signed(claim.diff)} ± {claim.se:.4f} ({len(first)} + {len(final)} runs)"


def _expected(effect: Effect) -> str:
    return f"expect about {signed(effect.shrunken)} after shrinkage"


def signed(bpb: float) -> str:
    """`−0.0130`, `+0.0001`; never a signed zero."""
    text = f"{bpb:+.4f}"
    return "0.0000" if text.strip("+-") == "0.0000" else text.replace("-", "−")


def _probability(p: float) -> str:
    """Cut, not rounded: 0.979 must not read as the 0.98 that would have promoted, nor 0.999 as certainty."""
    return f"{math.floor(p * 100 + 1e-9) / 100:.2f}"


def _verdict(effect: Effect) -> str:
    """ "" for a gain that was clear enough and dropped for another reason."""
    if abs(effect.diff) <= _CLEAR * effect.se:
        return "within noise"
    return "worse" if effect.diff > 0 else ""


def _runs(n: int) -> str:
    return f"{n} run{'' if n == 1 else 's'}"


def _one_line(reason: str) -> str:
    return " ".join(reason.split())
