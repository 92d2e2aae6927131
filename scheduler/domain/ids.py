"""The order of ids: c9 before c10, r9999 before r10000. Not covered: who hands them out."""

from __future__ import annotations


def id_order(ref: str) -> tuple[str, int]:
    """Sort key of an id: its letter, then its number."""
    letters = ref.rstrip("0123456789")
    return letters, int(ref[len(letters) :] or 0)
