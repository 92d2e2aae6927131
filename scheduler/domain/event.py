"""An event: one line of the ledger's append-only history."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """`subject` ("c0007", "r0012", "lab") left `from_state` ("" at its start) for `to_state`, at `at`, because."""

    number: int
    at: float
    tag: str
    subject: str
    from_state: str
    to_state: str
    reason: str
