"""Read models as JSON: numbers without NaN, times in UTC. Not covered: text, which `domain.text` cleans."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum

_DECIMALS = 6  # of every number in JSON: a thousandth of the noise of the quietest contract


def finite(number: float | int | None) -> float | None:
    """None for what is not a finite number."""
    return float(number) if number is not None and math.isfinite(number) else None


def utc(seconds: float) -> str:
    """Seconds since the epoch as "2026-11-23T02:12:00Z"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class View:
    """Base of the read models: their fields are their JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, object]:
        """Plain values; keys carry their units, unknown and non-finite numbers are null."""
        assert is_dataclass(self)
        return {field.name: jsonable(getattr(self, field.name)) for field in fields(self)}


def jsonable(value: object) -> object:
    """Views, tuples and enums as JSON knows them."""
    if isinstance(value, View):
        return value.to_json()
    if isinstance(value, tuple | list):
        return [jsonable(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return round(value, _DECIMALS) if math.isfinite(value) else None
    return value
