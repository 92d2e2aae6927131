"""Step 2: decisions and promotions."""

from __future__ import annotations

from scheduler.ledger.db import Database
from scheduler.ledger.migrations.tables import append_only

_DECISIONS = """
CREATE TABLE decision (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    decided_at REAL NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('promote', 'replicate', 'discard', 'measure-baseline', 'retry')),
    candidate INTEGER NOT NULL REFERENCES candidate,
    base INTEGER NOT NULL REFERENCES candidate,
    reason TEXT NOT NULL,
    sentence TEXT NOT NULL,
    effect TEXT CHECK (effect IS NOT NULL OR kind NOT IN ('promote', 'replicate')),
    p_better REAL,
    noise TEXT NOT NULL,
    gates TEXT NOT NULL,
    candidate_standing TEXT NOT NULL,
    base_standing TEXT NOT NULL
)"""

_PROMOTIONS = """
CREATE TABLE promotion (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    decision INTEGER NOT NULL UNIQUE REFERENCES decision,
    tag TEXT NOT NULL REFERENCES lab,
    candidate INTEGER NOT NULL UNIQUE REFERENCES candidate,
    base INTEGER NOT NULL REFERENCES candidate,
    commit_id TEXT NOT NULL,
    promoted_at REAL NOT NULL
)"""


def m002_decisions(database: Database) -> None:
    """Decisions with what they were taken from, and promotions."""
    database.execute(_DECISIONS)
    database.execute(_PROMOTIONS)
    database.execute("CREATE INDEX decision_candidate ON decision (candidate)")
    for table in ("decision", "promotion"):
        append_only(database, table)
