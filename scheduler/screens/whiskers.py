"""Effects as places on a line: where a mean and its error stand on an axis that many rows share. Arithmetic only.

Places are percent of the width, 0 to 100: a drawing on a page stretches with its column, one of letters has few cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MARGIN = 0.06  # of the axis, free on both sides
QUANTILE = 0.9  # of the effects that fit; beyond it one is cut and marked
LEAST_BPB = 1e-6


@dataclass(frozen=True, slots=True)
class Whisker:
    """`cut` is "<" or ">" where the mean is off the axis."""

    low: float
    mid: float
    high: float
    cut: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high` bpb. `zero` is where no effect stands."""

    low: float
    high: float

    @property
    def zero(self) -> float:
        return self.place(0.0)

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def whisker(self, mean: float, error: float) -> Whisker:
        cut = "<" if mean < self.low else ">" if mean > self.high else ""
        return Whisker(self.place(mean - error), self.place(mean), self.place(mean + error), cut)


def effect_axis(effects: Iterable[tuple[float, float]]) -> Axis:
    """An axis around zero for (mean, error) pairs: the gains whole, the losses as far as most of them go."""
    found = sorted(effects)
    if not found:
        return Axis(-1.0, 1.0)
    low = min(0.0, min(mean - error for mean, error in found))
    tops = sorted(mean + error for mean, error in found)
    high = max(-low / 3, tops[int(QUANTILE * (len(tops) - 1))], LEAST_BPB)
    return _with_margin(low, min(high, max(-3 * low, tops[len(tops) // 2], LEAST_BPB)))


def value_axis(values: Sequence[float]) -> Axis:
    """An axis that holds all values."""
    if not values:
        return Axis(0.0, 1.0)
    return _with_margin(min(values), max(values))


def _with_margin(low: float, high: float) -> Axis:
    room = MARGIN * max(high - low, LEAST_BPB)
    return Axis(low - room, high + room)
