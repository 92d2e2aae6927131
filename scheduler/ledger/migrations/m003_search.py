"""Step 3: where candidates come from, unions and the shelf, searches with their proposals and claims.

Words added to a CHECK need the table rebuilt: candidates, runs and decisions are.
"""

from __future__ import annotations

from scheduler.ledger.db import Database
from scheduler.ledger.migrations.tables import append_only, rebuild

_CANDIDATES = """
CREATE TABLE {name} (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    name TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    base INTEGER REFERENCES candidate,
    train_sha256 TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    title TEXT NOT NULL,
    author TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('open', 'contender', 'baseline', 'promoted', 'discarded', 'shelved', 'failed', 'cancelled')),
    origin TEXT NOT NULL DEFAULT 'submitted' CHECK (origin IN
        ('baseline', 'submitted', 'proposed', 'union', 'port')),
    proposer TEXT NOT NULL DEFAULT '',
    hypothesis TEXT NOT NULL DEFAULT '',
    theme TEXT NOT NULL DEFAULT '',
    round INTEGER,
    code_lines INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tag, name)
)"""

_RUNS = """
CREATE TABLE {name} (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    candidate INTEGER NOT NULL REFERENCES candidate,
    kind TEXT NOT NULL CHECK (kind IN ('baseline', 'new', 'repeat', 'union', 'claim')),
    seed INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'finished', 'cancelled')),
    since REAL NOT NULL,
    in_front INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    pool TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '',
    UNIQUE (tag, seed)
)"""

_DECISIONS = """
CREATE TABLE {name} (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    decided_at REAL NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN
        ('promote', 'replicate', 'discard', 'measure-baseline', 'retry', 'shelve', 'combine')),
    candidate INTEGER NOT NULL REFERENCES candidate,
    base INTEGER NOT NULL REFERENCES candidate,
    reason TEXT NOT NULL,
    sentence TEXT NOT NULL,
    effect TEXT CHECK (effect IS NOT NULL OR kind NOT IN ('promote', 'replicate', 'shelve')),
    p_better REAL,
    noise TEXT NOT NULL,
    gates TEXT NOT NULL,
    candidate_standing TEXT NOT NULL,
    base_standing TEXT NOT NULL,
    own_base_standing TEXT,
    result_mark INTEGER NOT NULL DEFAULT 0
)"""

_MERGES = """
CREATE TABLE merge (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    decision INTEGER NOT NULL UNIQUE REFERENCES decision,
    tag TEXT NOT NULL REFERENCES lab,
    base INTEGER NOT NULL REFERENCES candidate,
    parts TEXT NOT NULL,
    merged TEXT NOT NULL,
    candidate INTEGER UNIQUE REFERENCES candidate,
    halving INTEGER NOT NULL,
    predicted REAL NOT NULL,
    problem TEXT NOT NULL CHECK ((candidate IS NULL) = (problem != ''))
)"""

_SEARCHES = """
CREATE TABLE search (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    settings TEXT NOT NULL,
    started_at REAL NOT NULL,
    active_s REAL NOT NULL DEFAULT 0,
    state TEXT NOT NULL CHECK (state IN ('running', 'claiming', 'ended')),
    reason TEXT NOT NULL DEFAULT ''
)"""

_PROPOSALS = """
CREATE TABLE proposal (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    search INTEGER NOT NULL REFERENCES search,
    proposer TEXT NOT NULL,
    base INTEGER NOT NULL REFERENCES candidate,
    round INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('asked', 'queued', 'known', 'failed')),
    candidate INTEGER REFERENCES candidate CHECK ((candidate IS NOT NULL) = (state IN ('queued', 'known'))),
    title TEXT NOT NULL DEFAULT '',
    trouble TEXT NOT NULL DEFAULT '' CHECK ((trouble != '') = (state = 'failed')),
    reason TEXT NOT NULL DEFAULT '',
    log TEXT NOT NULL DEFAULT '',
    asked_at REAL NOT NULL,
    answered_at REAL CHECK ((answered_at IS NULL) = (state = 'asked'))
)"""

_CLAIMS = """
CREATE TABLE claim (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    search INTEGER NOT NULL UNIQUE REFERENCES search,
    claim TEXT NOT NULL,
    recorded_at REAL NOT NULL
)"""


def m003_search(database: Database) -> None:
    """Candidates of searches and merges; a lab that can be paused. Lines of older sources stay uncounted (0)."""
    origin = "CASE WHEN base IS NULL THEN 'baseline' ELSE 'submitted' END"
    rebuild(database, "candidate", _CANDIDATES, {"origin": origin})
    rebuild(database, "run", _RUNS, {})
    rebuild(database, "decision", _DECISIONS, {})
    database.execute("ALTER TABLE lab ADD COLUMN paused_at REAL")
    for statement in (_MERGES, _SEARCHES, _PROPOSALS, _CLAIMS):
        database.execute(statement)
    database.execute("CREATE INDEX merge_tag ON merge (tag)")
    database.execute("CREATE UNIQUE INDEX one_search ON search (tag) WHERE state != 'ended'")
    database.execute("CREATE INDEX proposal_state ON proposal (tag, state)")
    for table in ("merge", "claim"):
        append_only(database, table)
