"""What a user says about the knobs: some left alone, some alone, the values of others given in a file.

The file is YAML, by constant: `DEPTH: [2, 3, 4]` lists the values, `MATRIX_LR: {low: 0.01, high: 0.1}` bounds them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scheduler.policy.literals import Constant
from scheduler.proposers.setup import Options
from scheduler.proposers.tpe.knobs import Knob, Number, make_knobs, spread


@dataclass(frozen=True, slots=True)
class Space:
    """`given` holds a list of values or a pair of bounds by name."""

    fixed: tuple[str, ...]
    only: tuple[str, ...]
    given: Mapping[str, tuple[Number, ...] | tuple[None, Number, Number]]

    def knobs(self, constants: Mapping[str, Constant]) -> dict[str, Knob]:
        """The knobs of a train.py with these constants, in the order of the file."""
        made = make_knobs(constants, fixed=self.fixed, only=self.only)
        for name, given in self.given.items():
            value = constants.get(name)
            if isinstance(value, int | float) and name not in self.fixed and (not self.only or name in self.only):
                values = _values(name, value, given)
                made[name] = Knob(name, values, values.index(value))
        return {name: made[name] for name in constants if name in made and len(made[name].values) > 1}

    def unknown(self, constants: Mapping[str, Constant]) -> list[str]:
        """Names a user gave that are no constants."""
        return [name for name in (*self.fixed, *self.only, *self.given) if name not in constants]


def read_space(options: Options, root: Path, constants: Mapping[str, Constant]) -> Space:
    """Raises UsageProblem for a file that cannot be read or makes no sense, and for names that are no constants."""
    given = _read(options, root / options.text("space")) if options.text("space") else {}
    space = Space(options.names("fix"), options.names("only"), given)
    for name in space.unknown(constants) if constants else []:
        near = difflib.get_close_matches(name, constants, 1)
        raise options.problem(
            f"is told about {name}, which is no constant of train.py", f"did you mean {near[0]}?" if near else ""
        )
    return space


def _read(options: Options, path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise options.problem(f"cannot read {path}: {' '.join(str(problem).split())}") from None
    if not isinstance(raw, dict):
        raise options.problem(f"finds no constants in {path}", "write lines like `DEPTH: [2, 3, 4]`")
    return {str(name): _given(options, str(name), value) for name, value in raw.items()}


def _given(options: Options, name: str, value: object) -> tuple[Any, ...]:
    match value:
        case list() if value and all(isinstance(one, int | float) for one in value):
            return tuple(value)
        case {"low": int() | float() as low, "high": int() | float() as high, **rest} if not rest and low < high:
            return (None, low, high)
    raise options.problem(f"cannot use {name}: {value!r}", f"`{name}: [1, 2, 4]` or `{name}: {{low: 1, high: 4}}`")


def _values(name: str, value: Number, given: tuple[Any, ...]) -> tuple[Number, ...]:
    if given[0] is None:
        return spread(name, value, given[1], given[2])
    return tuple(sorted({*given, value}))
