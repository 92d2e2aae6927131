"""Why an idea came to nothing: fewer tokens in the budget, less learnt from each, or no score at all.

Speed is told from learning by the tokens a second that candidate and baseline reported: a claim of theirs, so it
explains and decides nothing.
"""

from __future__ import annotations

from scheduler.domain.decision import Effect

SAME_SPEED = {"wall": 0.03, "cpu": 0.15}  # by the contract's clock: runs of one program differ by less
CLEAR = 2.0  # standard errors


def why_dead(
    effect: Effect, tokens_per_s: float | None, base_tokens_per_s: float | None, same_speed: float = SAME_SPEED["wall"]
) -> str:
    """One clause. Tokens per second of the candidate and of the baseline it was made from; None where unknown.

    `same_speed`: the share by which the speeds of two runs of one program may differ.
    """
    speed = _speed(tokens_per_s, base_tokens_per_s, same_speed)
    if abs(effect.diff) <= CLEAR * effect.se:
        return f"within noise{f', {speed}' if speed else ''}"
    if effect.diff < 0:
        return f"better, not by enough{f', {speed}' if speed else ''}"
    if not speed:
        return "worse per token at the same speed" if tokens_per_s and base_tokens_per_s else "worse"
    return f"{speed}, and not worth it" if speed.startswith("slower") else f"{speed}, but worse per token"


def why_failed(status: str, reason: str) -> str:
    """A verdict without a score in the words of whoever wants to do better."""
    family = status.partition(":")[0]
    words = {"oom": "out of memory", "no-eval": "never asked for its evaluation"}
    said = words.get(family, status)
    return f"{said}: {reason}" if reason else said


def _speed(tokens_per_s: float | None, base_tokens_per_s: float | None, same_speed: float) -> str:
    if not tokens_per_s or not base_tokens_per_s:
        return ""
    change = tokens_per_s / base_tokens_per_s - 1
    if abs(change) <= same_speed:
        return ""
    return f"{'slower' if change < 0 else 'faster'} (tokens/s {change:+.0%})".replace("-", "−")
