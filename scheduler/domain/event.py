"""An event: one line of the ledger's append-only history."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """At `at`, `subject` left `from_state` ("" at its start) for `to_state`, because.

    A subject is a candidate ("c0007"), a run ("r0012"), the lab ("lab"), or an attempt whose word was refused
    ("r0012.1").
    """

    number: int
    at: float
    tag: str
    subject: str
    from_state: str
    to_state: str
    reason: str
