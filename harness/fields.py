"""Reading a mapping (of YAML or JSON) into a frozen dataclass, strictly.

Covers: unknown and missing keys (the nearest name is suggested), types, ranges, choices, nesting. Not covered: rules
between fields, and where the mapping came from. Standard library only.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class FieldError(Exception):
    """A value that cannot be read: the message says which key and why, `hint` what to write instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Between:
    """Allowed range of a number, both ends included; put into an Annotated type."""

    low: float
    high: float

    def check(self, value: float, where: str) -> None:
        if not self.low <= value <= self.high:
            raise FieldError(f"{where} is {value}", f"{where} lies between {self.low:g} and {self.high:g}")


def read_dataclass(kind: type[T], value: object, where: str = "") -> T:
    """Build dataclass `kind` from a mapping. `where` is the dotted path of the mapping. Raises FieldError."""
    if not isinstance(value, Mapping):
        raise FieldError(f"{where or 'the contract'} is {_shown(value)}", "it must be a mapping of names to values")
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in known:
            raise FieldError(f"unknown key {_dotted(where, key)!r}", nearest(str(key), known))
    hints = _hints(typing.cast(Any, kind))
    given = {name: read_value(hints[name], value[name], _dotted(where, name)) for name in known if name in value}
    for name, field in known.items():
        if name not in given and field.default is dataclasses.MISSING:
            raise FieldError(f"missing key {_dotted(where, name)!r}", "every contract must have it")
    return kind(**given)


def read_value(kind: Any, value: object, where: str) -> Any:
    """Check one value against its annotated type and return it in that type. Raises FieldError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        plain = read_value(arguments[0], value, where)
        for rule in arguments[1:]:
            rule.check(plain, where)
        return plain
    if origin is Literal:
        return _read_choice(arguments, value, where)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else read_value(arguments[0], value, where)
    if origin is tuple:
        return read_constants(value, where)
    if dataclasses.is_dataclass(kind):
        return read_dataclass(typing.cast(type[Any], kind), value, where)
    return _read_plain(kind, value, where)


def read_constants(value: object, where: str) -> tuple[tuple[str, int | float | str], ...]:
    """A mapping NAME -> number or text (or the list of pairs it becomes in JSON), sorted by name."""
    pairs = value.items() if isinstance(value, Mapping) else value
    if not isinstance(pairs, Iterable) or isinstance(pairs, str):
        raise FieldError(f"{where} is {_shown(value)}", "it must be a mapping of constants to values")
    return tuple(sorted(_read_constant(pair, where) for pair in pairs))


def _read_constant(pair: object, where: str) -> tuple[str, int | float | str]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise FieldError(f"{where} holds {_shown(pair)}", "it must be a mapping of constants to values")
    name, value = pair
    if not isinstance(name, str) or not name.isidentifier() or not name.isupper():
        raise FieldError(f"{where} names {name!r}", "constants of train.py are written like DEVICE_BATCH_SIZE")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise FieldError(f"{where}.{name} is {_shown(value)}", "it must be a number or a text")
    return name, value


def nearest(name: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'?", or the whole list when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(names)}"


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _read_choice(choices: tuple[Any, ...], value: object, where: str) -> object:
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        close = nearest(value, choices) if isinstance(value, str) else ""
        raise FieldError(f"{where} is {_shown(value)}", f"{where} is one of {listed}; {close}".rstrip("; "))
    return value


def _read_plain(kind: type[Any], value: object, where: str) -> object:
    accepted = (int, float) if kind is float else (kind,)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise FieldError(f"{where} is {_shown(value)}", f"{where} must be {_NAMES[kind]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise FieldError(f"{where} is {value}", f"{where} must be a finite number")
    return kind(value)


_NAMES = {int: "a whole number", float: "a number (write 0.001, not 1e-3)", str: "a text"}


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:60]}..." if len(text) > 60 else text


def _dotted(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)
