"""Read models: what screens, pages and --json show, as values made from the ledger. They write nothing.

This module: values as JSON, and times as text. Text is cleaned by `domain.text`.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache, singledispatch
from typing import Any

_PLAIN = {str, int, bool, type(None)}
_DECIMALS = 6  # of every number in JSON: a thousandth of the noise of the quietest contract


class View:
    """Base of the dataclasses that a verb prints as JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, object]:
        """Plain values under the names of the fields, which carry their units."""
        value = jsonable(self)
        assert isinstance(value, dict)
        return value


@singledispatch
def jsonable(value: object) -> object:
    """The value as JSON knows it: numbers rounded, or null where they are not finite; dataclasses by their fields.

    Domain types whose public form is another register it next to their view.
    """
    if not is_dataclass(value):
        return value
    shown: dict[str, object] = {}
    cls: Any = type(value)
    for name in _names(cls):  # a leaderboard has thousands of rows: plain fields are not dispatched
        item = getattr(value, name)
        kind = type(item)
        shown[name] = item if kind in _PLAIN else _number(item) if kind is float else jsonable(item)
    return shown


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@jsonable.register(float)
def _number(value: float) -> float | None:
    return round(value, _DECIMALS) if math.isfinite(value) else None


@jsonable.register
def _(value: Enum) -> object:
    return value.value


@jsonable.register(tuple)
@jsonable.register(list)
def _(value: tuple[object, ...] | list[object]) -> list[object]:
    return [jsonable(item) for item in value]


def utc(seconds: float) -> str:
    """Seconds since the epoch as "2026-11-23T02:12:00Z"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
