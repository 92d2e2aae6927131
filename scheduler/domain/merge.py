"""A merge: the patches of earlier candidates put together on the current baseline by the scheduler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Merge:
    """One union (several `parts`) or port (one), in the order of merging.

    `merged` are the parts that went in; the others conflicted. `candidate_id` is None when nothing came of it: every
    part conflicted, or the result was a program known already. `predicted` is the sum of the parts' shrunken effects
    in bpb (negative is better); `halving` counts the failed unions it is a half of.
    """

    number: int
    base_id: str
    parts: tuple[str, ...]
    merged: tuple[str, ...]
    candidate_id: str | None
    halving: int
    predicted: float
    problem: str = ""  # why `candidate_id` is None


@dataclass(frozen=True, slots=True)
class Assembled:
    """What merging gave: a program on the commit of the baseline it was merged onto, still to be measured.

    `skipped` are the parts that did not go in, each with the reason.
    """

    name: str
    title: str
    commit: str
    train_py: bytes
    train_sha256: str
    fingerprint: str
    code_lines: int
    merged: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
