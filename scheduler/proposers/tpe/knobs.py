"""Which constants of a train.py are worth turning, and the values each may take: an ordered ladder with the baseline's
own value on it. Pure.

A ladder is guessed from a constant's name and value, the way people tune them: learning rates in quarter octaves,
shares of the budget in twentieths, sizes that hardware likes in powers of two. Text, tuples and constants that do not
change what is learned are left alone; whether a value is legal only train.py knows, and a failed run teaches it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from scheduler.policy.literals import Constant

INT_SPAN, FLOAT_SPAN = 4, 8  # how far from the baseline's value a ladder reaches, both ways
Number = int | float

_NOT_LEARNING = ("LOG", "SEED", "COMPILE", "EVAL", "PRINT", "VERBOSE", "DEBUG", "WORKERS", "SAVE", "CHECKPOINT")
_SHARES = ("RATIO", "FRAC", "FRACTION", "SHARE", "PROB", "DROPOUT", "PERCENT")
_DECAYS = ("BETA", "BETA1", "BETA2", "MOMENTUM", "EMA")
_SIZES = ("BATCH", "DIM", "SIZE")  # powers of two and nothing between
_RATES = ("LR", "RATE")
_SMALL = 8  # up to here every whole number is on the ladder


@dataclass(frozen=True, slots=True)
class Knob:
    """`values` from the least to the greatest; `at` is where the baseline's own value stands."""

    name: str
    values: tuple[Number, ...]
    at: int

    def place(self, value: Number) -> int | None:
        """The rung nearest to a value; None when it is off the ladder."""
        above = bisect.bisect_left(self.values, value)
        if above < len(self.values) and self.values[above] == value:
            return above
        if above in (0, len(self.values)):
            return None
        low, high = self.values[above - 1], self.values[above]
        return above - 1 if value - low < high - value else above


def make_knobs(constants: Mapping[str, Constant], *, fixed: Collection[str], only: Collection[str]) -> dict[str, Knob]:
    """NAME -> knob, in the order of the file."""
    found = {}
    for name, value in constants.items():
        if (only and name not in only) or name in fixed or not isinstance(value, int | float):
            continue
        if name not in only and not set(name.split("_")).isdisjoint(_NOT_LEARNING):
            continue
        values = ladder(name, value)
        if len(values) > 1:
            found[name] = Knob(name, values, values.index(value))
    return found


def ladder(name: str, value: Number) -> tuple[Number, ...]:
    """Every value a constant may take, its own included, rising; its own alone when nothing sensible is known."""
    words = set(name.split("_"))
    if isinstance(value, bool):
        return (False, True)
    if not math.isfinite(value) or value < 0:
        return (value,)
    if isinstance(value, int):
        return _whole(words, value)
    if not words.isdisjoint(_DECAYS) and 0.5 <= value < 1:
        return _rising(value, (1 - one for one in _octaves(1 - value, 3, 2)))
    if value == 0 or (not words.isdisjoint(_SHARES) and value <= 1):
        return _rising(value, (step / 20 for step in range(21 if value else 11)))
    off = () if not words.isdisjoint(_RATES) else (0.0,)  # without a learning rate nothing is learned
    return _rising(value, (*off, *_octaves(value, math.log2(FLOAT_SPAN), 4)))


def spread(name: str, value: Number, low: Number, high: Number) -> tuple[Number, ...]:
    """A ladder between two bounds that a user gave: linear from 0, else by ratio."""
    if isinstance(value, int) and isinstance(low, int) and isinstance(high, int):
        whole = range(low, high + 1) if high - low <= 4 * _SMALL else (round(x) for x in _between(low, high))
        return _rising(value, whole)
    return _rising(value, (float(f"{x:.3g}") for x in _between(low, high)))


def _between(low: Number, high: Number, rungs: int = 24) -> Iterable[float]:
    if low > 0:
        return (low * (high / low) ** (step / rungs) for step in range(rungs + 1))
    return (low + (high - low) * step / rungs for step in range(rungs + 1))


def _whole(words: set[str], value: int) -> tuple[Number, ...]:
    if value == 0:
        return (value,)
    least, most = max(1, value // INT_SPAN), value * INT_SPAN
    is_power = value & (value - 1) == 0
    powers = [1 << bit for bit in range(least.bit_length() - 1, most.bit_length()) if least <= 1 << bit <= most]
    if is_power and not words.isdisjoint(_SIZES):
        return _rising(value, powers)
    if is_power and value > _SMALL:
        return _rising(value, (*powers, *(3 * power // 2 for power in powers if 3 * power // 2 <= most)))
    steps = {round(value * 2 ** (step / 4)) for step in range(-8, 9)}
    small = range(least, min(most, _SMALL) + 1)
    return _rising(value, (*small, *(step for step in steps if _SMALL < step <= most)))


def _octaves(value: float, octaves: float, steps: int) -> Iterable[float]:
    """From `value` that many octaves down and up, so many steps an octave, to two digits."""
    count = round(octaves * steps)
    return (float(f"{value * 2 ** (step / steps):.2g}") for step in range(-count, count + 1))


def _rising(value: Number, values: Iterable[Number]) -> tuple[Number, ...]:
    """Sorted, with `value` itself instead of what rounding made of it."""
    kept = {float(f"{one:.6g}") if isinstance(one, float) else one for one in values}
    near = {one for one in kept if one != value and math.isclose(one, value, rel_tol=0.02)}
    return tuple(sorted((kept - near) | {value}))
