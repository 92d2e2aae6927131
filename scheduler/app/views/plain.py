"""What may reach a reader: text without control characters, numbers without NaN, times in UTC.

Names, titles and logs come from candidates, so they are data: whatever could move a cursor, recolour a terminal or
turn the direction of writing is taken out. Does not shorten anything; screens do.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum

# Terminal sequences: CSI (colours, cursor), OSC (titles, links; ended by BEL or ESC \), and the two-character ones.
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -~]?", re.DOTALL)
_KEPT = {"\n", "\t"}
_DECIMALS = 6  # of every number in JSON: a thousandth of the noise of the quietest contract


def clean(text: str) -> str:
    """The text without terminal sequences and control characters; newlines and tabs stay, a lone \\r ends a line."""
    text = _SEQUENCE.sub("", text.replace("\r\n", "\n")).replace("\r", "\n")
    return "".join(c for c in text if c in _KEPT or not _is_control(c))


def one_line(text: str) -> str:
    """`clean`, with every run of blanks as one space."""
    return " ".join(clean(text).split())


def flat(text: str) -> str:
    """`clean`, on one line, with its columns kept."""
    return " ".join(clean(text).splitlines())


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


def _is_control(character: str) -> bool:
    """Control, format (bidirectional overrides among them), surrogate, private and separator characters."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
