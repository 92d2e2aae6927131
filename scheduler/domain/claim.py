"""The claim of a search: first and last baseline measured anew, alternately, on the same slots."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """`diff` = mean(final) − mean(first) in bpb over fresh runs alone; `se` its standard error from `df` degrees.

    `low` and `high` bound the 95 % interval. With no promotion first and final are one candidate, `diff` is 0 and
    there is nothing to measure (both score tuples are empty, `se` is 0).
    """

    first_id: str
    final_id: str
    first_scores: tuple[float, ...]
    final_scores: tuple[float, ...]
    diff: float
    se: float
    df: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.high < 0 or self.low > 0
