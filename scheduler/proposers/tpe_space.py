"""Which constants of a train.py are tuned, over which values, and what earlier candidates teach about them.

A grid is guessed from a constant's name and value, the way people tune them: learning rates in quarter octaves, shares
of the budget in twentieths, sizes that hardware likes in powers of two. Text, tuples and constants that do not change
what is learned are left alone. A trial with other code, or with a value off its grid, teaches nothing and is left out.
"""

from __future__ import annotations

import bisect
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import yaml

from scheduler.domain.errors import CandidateRejected
from scheduler.domain.search import Trial
from scheduler.policy.constants import Constant, read_constants, rewrite_constants
from scheduler.policy.source import fingerprint
from scheduler.proposers.registry import Options

Number = int | float
INT_SPAN, FLOAT_SPAN = 4, 8  # how far from the baseline's value a grid reaches, both ways

_NOT_LEARNING = ("LOG", "SEED", "COMPILE", "EVAL", "PRINT", "VERBOSE", "DEBUG", "WORKERS", "SAVE", "CHECKPOINT")
_SHARES = ("RATIO", "FRAC", "FRACTION", "SHARE", "PROB", "DROPOUT", "PERCENT")
_DECAYS = ("BETA", "BETA1", "BETA2", "MOMENTUM", "EMA")
_SIZES = ("BATCH", "DIM", "SIZE")  # powers of two and nothing between
_RATES = ("LR", "RATE")
_SMALL = 8  # up to here every whole number is on the grid


@dataclass(frozen=True, slots=True)
class Parameter:
    """`grid` from the least value to the greatest, `base`, the baseline's own, among them."""

    name: str
    grid: tuple[Number, ...]
    base: Number

    def nearest(self, value: Number) -> Number | None:
        """The grid's value nearest to this one; None when it lies outside the grid."""
        if not self.grid[0] <= value <= self.grid[-1]:
            return None
        above = bisect.bisect_left(self.grid, value)
        low, high = self.grid[max(0, above - 1)], self.grid[above]
        return high if high == value or high - value <= value - low else low


class Bounds(NamedTuple):
    low: Number
    high: Number


@dataclass(frozen=True, slots=True)
class Space:
    """What a user wants tuned: constants left alone, the only ones, and grids or bounds given by name."""

    fixed: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    given: Mapping[str, tuple[Number, ...] | Bounds] = field(default_factory=dict)

    def parameters(self, constants: Mapping[str, Constant]) -> dict[str, Parameter]:
        """NAME -> parameter of a train.py with these constants, in the order of the file."""
        found = {}
        for name, value in constants.items():
            if not isinstance(value, int | float) or name in self.fixed or (self.only and name not in self.only):
                continue
            given = self.given.get(name)
            if given is not None:
                grid = spread(value, *given) if isinstance(given, Bounds) else tuple(sorted({*given, value}))
            elif name in self.only or set(name.split("_")).isdisjoint(_NOT_LEARNING):
                grid = guess_grid(name, value)
            else:
                continue
            if len(grid) > 1:
                found[name] = Parameter(name, grid, value)
        return found


def read_space(options: Options, root: Path, constants: Mapping[str, Constant]) -> Space:
    """The options `fix`, `only` and `space`; `constants` empty: names are not checked.

    Raises UsageProblem for a file that cannot be read or makes no sense, and for names that are no constants.
    """
    given = _read_file(options, root / options.text("space")) if options.text("space") else {}
    space = Space(options.names("fix"), options.names("only"), given)
    for name in (*space.fixed, *space.only, *given):
        if constants and name not in constants:
            near = difflib.get_close_matches(name, constants, 1)
            hint = f"did you mean {near[0]}?" if near else ""
            raise options.problem(f"has options for {name}, which is no constant of train.py", hint)
    return space


def guess_grid(name: str, value: Number) -> tuple[Number, ...]:
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


def spread(value: Number, low: Number, high: Number) -> tuple[Number, ...]:
    """A grid between two bounds that a user gave: linear from 0, else by ratio."""
    between = [low * (high / low) ** (i / 24) if low > 0 else low + (high - low) * i / 24 for i in range(25)]
    if isinstance(value, int) and isinstance(low, int) and isinstance(high, int):
        return _rising(value, range(low, high + 1) if high - low <= 4 * _SMALL else map(round, between))
    return _rising(value, (float(f"{one:.3g}") for one in between))


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


def _read_file(options: Options, path: Path) -> dict[str, tuple[Number, ...] | Bounds]:
    """YAML by constant: `DEPTH: [2, 3, 4]` lists the values, `MATRIX_LR: {low: 0.01, high: 0.1}` bounds them."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise options.problem(f"cannot read {path}: {' '.join(str(problem).split())}") from None
    if not isinstance(raw, dict):
        raise options.problem(f"finds no constants in {path}", "write lines like `DEPTH: [2, 3, 4]`")
    return {str(name): _given(options, str(name), value) for name, value in raw.items()}


def _given(options: Options, name: str, value: object) -> tuple[Number, ...] | Bounds:
    match value:
        case list() if value and all(isinstance(one, int | float) for one in value):
            return tuple(value)
        case {"low": int() | float() as low, "high": int() | float() as high, **rest} if not rest and low < high:
            return Bounds(low, high)
    raise options.problem(f"cannot use {name}: {value!r}", f"`{name}: [1, 2, 4]` or `{name}: {{low: 1, high: 4}}`")


Values = tuple[Number, ...]  # one for every parameter, in their order, each on its grid
Constants = Mapping[str, Constant]
_PLAIN = re.compile(rb"[A-Z][A-Z0-9_]* = \S")


@dataclass(frozen=True, slots=True)
class Point:
    """One trial. `score` None: it failed, or (`pending`) is not over."""

    values: Values
    score: float | None
    pending: bool


class Reader:
    """Sources as constants, against one baseline at a time."""

    def __init__(self) -> None:
        self._base_py = b""
        self._base: Constants = {}
        self._rest: str | None = None  # the fingerprint of the baseline without its constants, once it was needed
        self._known: dict[bytes, Constants | None] = {}

    def set_base(self, base_py: bytes) -> Constants:
        """Take this source as the baseline. Returns its constants, none when it does not parse."""
        if base_py != self._base_py or not self._known:
            self._base_py, self._base, self._rest = base_py, read_source(base_py) or {}, None
            self._known = {base_py: self._base}
        return self._base

    def points(self, trials: Iterable[Trial], parameters: Mapping[str, Parameter]) -> list[Point]:
        """The comparable ones among the trials, oldest first."""
        found = []
        for trial in trials:
            if trial.pending or trial.val_bpb is not None or trial.failure:
                values = self._place(trial.train_py, parameters)
                if values is not None:
                    found.append(Point(values, None if trial.pending else trial.val_bpb, trial.pending))
        return found

    def pending(self, sources: Iterable[bytes], parameters: Mapping[str, Parameter]) -> list[Point]:
        """Points of sources that are on no record yet."""
        placed = (self._place(source, parameters) for source in sources)
        return [Point(values, None, True) for values in placed if values is not None]

    def _place(self, train_py: bytes, parameters: Mapping[str, Parameter]) -> Values | None:
        if train_py not in self._known:
            self._known[train_py] = self._compare(train_py)
        constants = self._known[train_py]
        if constants is None or any(
            constants[name] != self._base[name] for name in self._base if name not in parameters
        ):
            return None
        return _nearest(constants, parameters)

    def _compare(self, train_py: bytes) -> Constants | None:
        """The constants of a source that is the baseline's in everything else; None for any other."""
        changed = _changed_lines(self._base_py, train_py)
        if changed is not None and changed.keys() <= self._base.keys():
            return {**self._base, **changed}
        constants = read_source(train_py)
        if constants is None or constants.keys() != self._base.keys():
            return None
        if self._rest is None:
            self._rest = _rest(self._base_py, self._base)
        return constants if _rest(train_py, constants) == self._rest else None


def _nearest(constants: Constants, parameters: Mapping[str, Parameter]) -> Values | None:
    """These constants on the grids; None when one is off its grid."""
    values = []
    for parameter in parameters.values():
        value = constants[parameter.name]
        nearest = parameter.nearest(value) if isinstance(value, int | float) else None
        if nearest is None:
            return None
        values.append(nearest)
    return tuple(values)


def read_source(train_py: bytes) -> Constants | None:
    """None for what does not parse."""
    try:
        return read_constants(train_py.decode())
    except (UnicodeDecodeError, CandidateRejected):
        return None


def _changed_lines(before: bytes, after: bytes) -> dict[str, Constant] | None:
    """The constants of the lines that differ, when each is one `NAME = value` before and after; None otherwise."""
    old, new = before.split(b"\n"), after.split(b"\n")
    if len(old) != len(new):
        return None
    found: dict[str, Constant] = {}
    for was, now in zip(old, new, strict=True):
        if was == now:
            continue
        if not (_PLAIN.match(was) and _PLAIN.match(now)) or b";" in now:
            return None
        one, other = read_source(was), read_source(now)
        if not one or not other or len(other) != 1 or one.keys() != other.keys():
            return None
        found.update(other)
    return found


def _rest(train_py: bytes, constants: Constants) -> str:
    return fingerprint(rewrite_constants(train_py.decode(), dict.fromkeys(constants, 0)))
