"""Decisions as sentences with every number they were taken from; why an idea came to nothing; the kinds of ideas.

Bits per byte; negative effects are better. Explains and groups; decides nothing.
"""

from __future__ import annotations

import re

from scheduler.domain.decision import (
    Claim,
    Combine,
    Decision,
    Discard,
    Effect,
    MeasureBaseline,
    Promote,
    Replicate,
    Retry,
    Rule,
    Shelve,
)
from scheduler.domain.text import count, one_line, probability, signed

CLEAR = 2.0  # standard errors; less is called noise
SAME_SPEED = {"wall": 0.03, "cpu": 0.15, "work": 0.15}  # by the contract's clock: runs of one program differ by less

THEMES = ("architecture", "optimiser", "schedule", "initialisation", "throughput", "removal")
OTHER = "other"
THEME_CHARACTERS = 24
_THEME_WORDS = {
    "removal": r"remov|delet|simplif|without|get rid|strip",
    "schedule": r"WARM(UP|DOWN)\w*|FINAL_LR\w*|warm.?up|warm.?down|schedul|cosine|anneal|cooldown",
    "optimiser": r"\w+_LR|WEIGHT_DECAY|ADAM\w*|learning rate|\blr\b|adam|muon|momentum|weight decay|optimi[sz]|beta",
    "throughput": r"\w*BATCH_SIZE|COMPILE\w*|batch|compil|faster|speed|kernel|fuse|throughput|tokens/s",
    "initialisation": r"\binit|regulari[sz]|dropout|SOFTCAP|softcap|orthogonal|z.?loss|noise",
    "architecture": r"DEPTH|ASPECT\w*|HEAD_DIM|WINDOW\w*|layer|width|wider|depth|deep|head|attention|mlp|rotary|norm",
}
_NO_THEME = ("", OTHER, "constants")
_SYNONYMS = {"optimizer": "optimiser", "regularisation": "initialisation", "regularization": "initialisation"}


def explain_decision(decision: Decision, name: str) -> str:
    """One line. `name` is the candidate's, or the baseline's where the baseline is measured."""
    match decision:
        case Promote(candidate_id=ref, effect=effect, reason=reason, rule=rule):
            why = f"  {one_line(reason)}" if rule is Rule.SIMPLICITY else ""
            return f"promoted  {ref} {name}  {_outlook(effect)}{why}"
        case Replicate(candidate_id=ref, effect=effect, reason=reason, rule=rule):
            why = f": {one_line(reason)}" if rule is Rule.MACHINE else ""
            return f"repeat    {ref} {name}  {_outlook(effect)}; one more run{why}"
        case Discard(candidate_id=ref, effect=Effect() as effect, reason=reason):
            clear = abs(effect.diff) > CLEAR * effect.se
            why = "within noise" if not clear else "worse" if effect.diff > 0 else one_line(reason)
            return f"dropped   {ref} {name}  {_outlook(effect)}; {why}"
        case Shelve(candidate_id=ref, effect=effect):
            return f"shelved   {ref} {name}  {_outlook(effect)}; kept for a union"
        case Discard(candidate_id=ref, reason=reason):
            return f"failed    {ref} {name}  {one_line(reason)}"
        case Combine(parts=parts, base_id=base, predicted=predicted, reason=reason):
            whole = f"{' + '.join(parts)} onto {base}  predicted {signed(predicted)}  {one_line(reason)}"
            return f"{'port' if len(parts) == 1 else 'union':<9} {whole}"
        case MeasureBaseline(base_id=ref, reason=reason):
            return f"baseline  {ref} {name}  one more run: {reason}"
        case Retry(candidate_id=ref, reason=reason):
            return f"retry     {ref} {name}  {one_line(reason)}"


def describe_effect(effect: Effect) -> str:
    """`−0.0130 ± 0.0050 (2 runs vs 3)  P(better)=0.99`"""
    runs = f"{count(effect.n_candidate, 'run')} vs {effect.n_base}"
    return f"{signed(effect.diff)} ± {effect.se:.4f} ({runs})  P(better)={probability(effect.p_better)}"


def describe_claim(claim: Claim) -> str:
    """`1.0032 → 0.9741, −0.0291 ± 0.0008 (4 + 4 runs)`: means and difference over the claim's fresh runs alone."""
    first, final = claim.first_scores, claim.final_scores
    if not first or not final:
        return "nothing to claim"
    means = f"{sum(first) / len(first):.4f} → {sum(final) / len(final):.4f}"
    return f"{means}, {signed(claim.diff)} ± {claim.se:.4f} ({len(first)} + {len(final)} runs)"


def describe_undecided(below_bpb: float) -> str:
    """`load moves scores by 0.0300 here: results under 0.0600 are not decided`, of stats.undecided_below(…)."""
    return f"load moves scores by {below_bpb / 2:.4f} here: results under {below_bpb:.4f} are not decided"


def why_dead(
    effect: Effect, tokens_per_s: float | None, base_tokens_per_s: float | None, same_speed: float = SAME_SPEED["wall"]
) -> str:
    """Why an idea gained nothing, in one clause: fewer tokens in the budget, or less learnt from each.

    Tokens per second are the candidate's and those of the baseline it was made from, as they reported them themselves;
    None where unknown. `same_speed`: the share by which the speeds of two runs of one program may differ.
    """
    change = tokens_per_s / base_tokens_per_s - 1 if tokens_per_s and base_tokens_per_s else 0.0
    speed = f"{'slower' if change < 0 else 'faster'} (tokens/s {change:+.0%})".replace("-", "−")
    if abs(change) <= same_speed:
        speed = ""
    if abs(effect.diff) <= CLEAR * effect.se:
        return f"within noise{f', {speed}' if speed else ''}"
    if effect.diff < 0:
        return f"better, not by enough{f', {speed}' if speed else ''}"
    if not speed:
        return "worse per token at the same speed" if tokens_per_s and base_tokens_per_s else "worse"
    return f"{speed}, and not worth it" if speed.startswith("slower") else f"{speed}, but worse per token"


def why_failed(status: str, reason: str) -> str:
    """A verdict without a score in the words of whoever wants to do better."""
    words = {"oom": "out of memory", "no-eval": "never asked for its evaluation"}
    what = words.get(status.partition(":")[0], status)
    return f"{what}: {reason}" if reason else what


def theme_of(word: str, title: str) -> str:
    """The kind of change: its author's word, shortened; else the theme most words of the title belong to, else OTHER.

    Guessing knows the constants of train.py and the field's usual words. Among equals the one named first.
    """
    word = " ".join(word.split()).lower()[:THEME_CHARACTERS]
    if word not in _NO_THEME:
        return _SYNONYMS.get(word, word)
    places = {
        theme: [m.start() for m in re.finditer(words, title, re.IGNORECASE)] for theme, words in _THEME_WORDS.items()
    }
    named = [theme for theme, found in places.items() if found]
    return min(named, key=lambda theme: (-len(places[theme]), places[theme][0]), default=OTHER)


def suggested_theme(ask_number: int) -> str:
    """Asks go through the themes in turn, so that agents that know nothing of each other differ."""
    return THEMES[ask_number % len(THEMES)]


def _outlook(effect: Effect) -> str:
    return f"{describe_effect(effect)}  expect about {signed(effect.shrunken)} after shrinkage"
