"""Merges as they were made, read back. They are written with the decision that called for them, and never change."""

from __future__ import annotations

import json
from typing import Any

from scheduler.domain.merge import Merge
from scheduler.ledger.db import Database
from scheduler.ledger.ids import candidate_id


class Merges:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, tag: str) -> tuple[Merge, ...]:
        """All of a lab, those that gave no program included, oldest first."""
        return read_merges(self._database, tag)


def read_merges(database: Database, tag: str, after: int = 0) -> tuple[Merge, ...]:
    """Those with a number above `after`, oldest first."""
    rows = database.all("SELECT * FROM merge WHERE tag = ? AND number > ? ORDER BY number", tag, after)
    return tuple(map(_parse_merge, rows))


def _parse_merge(row: Any) -> Merge:
    return Merge(
        number=row["number"],
        base_id=candidate_id(row["base"]),
        parts=tuple(json.loads(row["parts"])),
        merged=tuple(json.loads(row["merged"])),
        candidate_id=None if row["candidate"] is None else candidate_id(row["candidate"]),
        halving=row["halving"],
        predicted=row["predicted"],
        problem=row["problem"],
    )
