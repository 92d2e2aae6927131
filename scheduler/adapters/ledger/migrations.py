"""The ledger's schema as numbered steps: each is applied once, in one transaction with the record that it was.

A step that shipped is never changed; a new need is a new step at the end of MIGRATIONS. Rows are written elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scheduler.adapters.ledger.db import Database
from scheduler.domain.errors import LedgerProblem

APPLICATION_ID = 0x41525343  # "ARSC": how a ledger is told from any other SQLite file
Migration = Callable[[Database], None]

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
    _append_only(database, "event")


def m002_decisions(database: Database) -> None:
    """Decisions with what they were taken from, and promotions."""
    database.execute(_DECISIONS)
    database.execute(_PROMOTIONS)
    database.execute("CREATE INDEX decision_candidate ON decision (candidate)")
    for table in ("decision", "promotion"):
        _append_only(database, table)


MIGRATIONS: tuple[Migration, ...] = (m001_runs, m002_decisions)


def migrate(database: Database, at: float, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to the newest schema. Raises LedgerProblem when it is newer still, or is no ledger."""
    applied = _applied(database)
    if applied == len(migrations):
        return
    if applied > len(migrations):
        message = f"the ledger {database.path} has schema {applied}, this arsched knows up to {len(migrations)}"
        raise LedgerProblem(message, "update arsched to the version that wrote it")
    for number in range(applied + 1, len(migrations) + 1):
        _apply(database, number, migrations[number - 1], at)


def _applied(database: Database) -> int:
    """How many steps the file has; 0 for a new file. A file of another program is refused, never written to."""
    application_id = database.one("PRAGMA application_id")[0]
    tables = database.one("SELECT count(*) FROM sqlite_master")[0]
    if application_id != APPLICATION_ID and (application_id or tables):
        raise LedgerProblem(f"{database.path} is a database, but not a ledger of arsched", "move it away and try again")
    return int(database.one("SELECT max(number) FROM migration")[0]) if tables else 0


def _apply(database: Database, number: int, migration: Migration, at: float) -> None:
    with database.transaction():
        if _applied(database) >= number:  # another process was first
            return
        if number == 1:
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(
                "CREATE TABLE migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at REAL NOT NULL)"
            )
        migration(database)
        database.insert("migration", number=number, name=migration.__name__, applied_at=at)


def _append_only(database: Database, table: str) -> None:
    for verb in ("UPDATE", "DELETE"):
        database.execute(
            f"CREATE TRIGGER {table}_refuses_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} rows are append-only'); END"
        )
