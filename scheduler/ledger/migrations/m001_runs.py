"""Step 1: labs, candidates with their source, runs, attempts, results and the history."""

from __future__ import annotations

from scheduler.ledger.db import Database
from scheduler.ledger.migrations.tables import append_only

_LABS = """
CREATE TABLE lab (
    tag TEXT PRIMARY KEY,
    lab_id TEXT NOT NULL UNIQUE,
    branch TEXT NOT NULL,
    contract_name TEXT NOT NULL,
    contract_digest TEXT NOT NULL,
    contract_json TEXT NOT NULL,
    cache_digest TEXT NOT NULL,
    device TEXT NOT NULL,
    noise_prior_bpb REAL NOT NULL,
    gates TEXT NOT NULL,
    created_at REAL NOT NULL,
    is_current INTEGER NOT NULL DEFAULT 0
)"""

_CANDIDATES = """
CREATE TABLE candidate (
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
        ('open', 'contender', 'baseline', 'promoted', 'discarded', 'failed', 'cancelled')),
    UNIQUE (tag, name)
)"""

_SOURCES = "CREATE TABLE source (candidate INTEGER PRIMARY KEY REFERENCES candidate, train_py BLOB NOT NULL)"

_RUNS = """
CREATE TABLE run (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    candidate INTEGER NOT NULL REFERENCES candidate,
    kind TEXT NOT NULL CHECK (kind IN ('baseline', 'new', 'repeat')),
    seed INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'finished', 'cancelled')),
    since REAL NOT NULL,
    in_front INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    pool TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '',
    UNIQUE (tag, seed)
)"""

_ATTEMPTS = """
CREATE TABLE attempt (
    run INTEGER NOT NULL REFERENCES run,
    number INTEGER NOT NULL,
    slot_id TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    started_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    ended_at REAL,
    outcome TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, number)
)"""

_RESULTS = """
CREATE TABLE result (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL UNIQUE,
    attempt INTEGER NOT NULL,
    family TEXT NOT NULL CHECK (family IN ('scored', 'failed', 'infra')),
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    val_bpb REAL CHECK ((val_bpb IS NOT NULL) = (family = 'scored')),
    val_bpb_upstream REAL,
    suspect TEXT NOT NULL,
    text TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    FOREIGN KEY (run, attempt) REFERENCES attempt
)"""

_EVENTS = """
CREATE TABLE event (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    tag TEXT NOT NULL,
    subject TEXT NOT NULL,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    reason TEXT NOT NULL
)"""


def m001_runs(database: Database) -> None:
    """Labs, candidates with their source, runs, attempts, results."""
    for statement in (_LABS, _CANDIDATES, _SOURCES, _RUNS, _ATTEMPTS, _RESULTS, _EVENTS):
        database.execute(statement)
    database.execute("CREATE UNIQUE INDEX one_current_lab ON lab (is_current) WHERE is_current")
    database.execute("CREATE UNIQUE INDEX one_baseline ON candidate (tag) WHERE state = 'baseline'")
    database.execute("CREATE INDEX candidate_fingerprint ON candidate (tag, fingerprint)")
    database.execute("CREATE INDEX run_state ON run (tag, state)")
    database.execute("CREATE INDEX run_candidate ON run (candidate)")
    database.execute("CREATE UNIQUE INDEX one_open_attempt ON attempt (run) WHERE ended_at IS NULL")
    database.execute("CREATE INDEX event_tag ON event (tag, number)")
    append_only(database, "event")
