"""The ids people read ("c0007", "r0012", "s0001", "p0003") and the row numbers behind them.

Also what was probably meant by one that is unknown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from scheduler.domain.errors import UsageProblem

_ID = re.compile(r"[crsp]0*([1-9][0-9]{0,17})")


def candidate_id(number: int) -> str:
    return f"c{number:04d}"


def run_id(number: int) -> str:
    return f"r{number:04d}"


def search_id(number: int) -> str:
    return f"s{number:04d}"


def proposal_id(number: int) -> str:
    return f"p{number:04d}"


def number_of(ref: str, letter: str) -> int | None:
    """Row number of an id with this letter ("c7" and "c0007" are the same), or None when it is not one."""
    found = _ID.fullmatch(ref)
    return int(found[1]) if found and ref.startswith(letter) else None


def is_reserved(name: str) -> bool:
    """A candidate of such a name could not be told from an id."""
    return name == "last" or number_of(name, "c") is not None or number_of(name, "r") is not None


def unknown(what: str, ref: str, tag: str, known: Iterable[str]) -> UsageProblem:
    """The error for a reference that leads nowhere, with the nearest one that does."""
    nearest = difflib.get_close_matches(ref, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "`arsched status` and `arsched leaderboard` list them"
    return UsageProblem(f"no {what} {ref!r} in lab {tag!r}", hint)
