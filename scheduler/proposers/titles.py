"""A title for a change that came without one, read from the two sources."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from scheduler.domain.errors import CandidateRejected
from scheduler.policy.constants import read_constants
from scheduler.policy.literals import Constant, spell

TITLE_CHARACTERS = 120
_SHOWN = 4


def describe_change(before: str, after: str) -> str:
    """Like "MATRIX_LR 0.04 → 0.06, DEPTH 4 → 3", else the first line that is new."""
    try:
        old, new = read_constants(before), read_constants(after)
    except CandidateRejected:
        old = new = {}
    moved = {name: value for name, value in new.items() if name in old and old[name] != value}
    if moved:
        return describe_values(old, moved)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---") and line[1:].strip()]
    added = [line for line in changed if line[0] == "+"]
    shown = f"without {changed[0][1:].strip()}" if changed and not added else "".join(added[:1])[1:].strip()
    return shown[:TITLE_CHARACTERS] or "a change of layout"


def describe_values(old: Mapping[str, Constant], moved: Mapping[str, Constant]) -> str:
    """The first few moves of constants, in words."""
    said = [f"{name} {_short(old[name])} → {_short(value)}" for name, value in list(moved.items())[:_SHOWN]]
    more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
    return (", ".join(said) + more)[:TITLE_CHARACTERS]


def _short(value: Constant) -> str:
    return f"{value:.6g}" if isinstance(value, float) else spell(value)
