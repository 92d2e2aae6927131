"""Decisions as sentences, with every number they were taken from. Bits per byte; negative effects are better."""

from __future__ import annotations

from scheduler.domain.decision import Decision, Discard, Effect, MeasureBaseline, Noise, Promote, Replicate, Retry


def explain_decision(decision: Decision, name: str) -> str:
    """One line. `name` is the candidate's, or the baseline's where the baseline is measured."""
    match decision:
        case Promote(candidate_id=ref, effect=effect):
            tail = f"expect about {signed(effect.shrunken)} after shrinkage"
            return f"promoted  {ref} {name}  {describe_effect(effect)}  {tail}"
        case Replicate(candidate_id=ref, effect=effect):
            return f"repeat    {ref} {name}  {describe_effect(effect)}  one more run"
        case Discard(candidate_id=ref, effect=None, reason=reason):
            return f"failed    {ref} {name}  {reason}"
        case Discard(candidate_id=ref, effect=effect):
            assert effect is not None
            verdict = "within noise" if abs(effect.diff) < 2 * effect.se else "worse"
            return f"dropped   {ref} {name}  {describe_effect(effect)}  {verdict}"
        case MeasureBaseline(base_id=ref, reason=reason):
            return f"baseline  {ref} {name}  one more run: {reason}"
        case Retry(candidate_id=ref, reason=reason):
            return f"retry     {ref} {name}  {reason}"


def describe_effect(effect: Effect) -> str:
    """`-0.0130 ± 0.0050 (2 runs vs 3)  P(better)=0.99`"""
    runs = f"{effect.n_candidate} run{'s' if effect.n_candidate > 1 else ''} vs {effect.n_base}"
    return f"{signed(effect.diff)} ± {effect.se:.4f} ({runs})  P(better)={effect.p_better:.2f}"


def describe_noise(noise: Noise) -> str:
    return f"noise sd {noise.sigma:.5f} ({noise.df} repeats)"


def signed(bpb: float) -> str:
    return f"{bpb:+.4f}".replace("-", "−")
