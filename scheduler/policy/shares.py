"""Which proposer is asked next, and how long one rests that brings trouble.

Ideas are shared by weight: the proposer furthest below its share is next, so that a slow one is asked whenever it is
free and a quick one cannot crowd it out. Chance has no part in it. Does not ask anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

FIRST_REST_S, LONGEST_REST_S = 5.0, 600.0
PATIENCE = 8  # troubles in a row after which a proposer is given up that has brought nothing new yet, or only repeats
PROVEN_PATIENCE = 40  # the same for one that has brought ideas: about six hours, longer than a usage limit lasts
KNOWN_PATIENCE = 3  # repeats in a row that are no trouble yet


def next_proposer(weights: Mapping[str, float], ideas: Mapping[str, int], able: Collection[str]) -> str | None:
    """The able proposer furthest below its share of all ideas, the first named among equals; None without any.

    `ideas` counts what each has brought and what it is asked for now; `weights` are positive.
    """
    total = sum(weights.values())
    count = sum(ideas.get(name, 0) for name in weights) + 1
    lag = {name: weight / total * count - ideas.get(name, 0) for name, weight in weights.items() if name in able}
    return max(lag, key=lambda name: lag[name], default=None)


def rest_s(troubles: int) -> float:
    """Seconds without an ask after so many troubles in a row: 5, 10, 20 … at most 600."""
    return min(FIRST_REST_S * 2.0 ** max(0, troubles - 1), LONGEST_REST_S)
