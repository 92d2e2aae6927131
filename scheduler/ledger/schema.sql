-- Migration 1: the tables of version 0.1. Once released this file never changes; a new need is a new migration.

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
    gates TEXT NOT NULL, -- JSON of GateSettings
    created_at REAL NOT NULL,
    paused_at REAL,
    is_current INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX one_current_lab ON lab (is_current) WHERE is_current;

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
        ('open', 'contender', 'baseline', 'promoted', 'discarded', 'shelved', 'failed', 'cancelled')),
    origin TEXT NOT NULL CHECK (origin IN ('baseline', 'submitted', 'proposed', 'union', 'port')),
    proposer TEXT NOT NULL,
    hypothesis TEXT NOT NULL,
    theme TEXT NOT NULL,
    round INTEGER,
    code_lines INTEGER NOT NULL,
    UNIQUE (tag, name)
);
CREATE UNIQUE INDEX one_baseline ON candidate (tag) WHERE state = 'baseline';
CREATE INDEX candidate_fingerprint ON candidate (tag, fingerprint);
CREATE INDEX candidate_state ON candidate (tag, state);

CREATE TABLE source (candidate INTEGER PRIMARY KEY REFERENCES candidate, train_py BLOB NOT NULL);

CREATE TABLE run (
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
);
CREATE INDEX run_state ON run (tag, state);
CREATE INDEX run_candidate ON run (candidate);

CREATE TABLE attempt (
    run INTEGER NOT NULL REFERENCES run,
    number INTEGER NOT NULL,
    slot_id TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    queued_at REAL NOT NULL, -- since when the run could have been placed
    started_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    ended_at REAL,
    outcome TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, number)
);
CREATE UNIQUE INDEX one_open_attempt ON attempt (run) WHERE ended_at IS NULL;

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
    wall_s REAL, -- how long the judge lived
    train_s REAL, -- how long the candidate trained, by the judge's clock
    peak_memory_mb REAL,
    recorded_at REAL NOT NULL,
    text TEXT NOT NULL, -- the judge's result.json
    FOREIGN KEY (run, attempt) REFERENCES attempt
);

CREATE TABLE decision (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    decided_at REAL NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN
        ('promote', 'replicate', 'discard', 'measure-baseline', 'retry', 'shelve', 'combine')),
    candidate INTEGER NOT NULL REFERENCES candidate,
    base INTEGER NOT NULL REFERENCES candidate,
    p_better REAL CHECK (p_better IS NOT NULL OR kind NOT IN ('promote', 'replicate', 'shelve')),
    reason TEXT NOT NULL,
    sentence TEXT NOT NULL,
    result_mark INTEGER NOT NULL,
    decision TEXT NOT NULL, -- JSON of the decision, of the type that its kind names
    taken_from TEXT NOT NULL -- JSON: standings, noise and settings it was taken from
);
CREATE INDEX decision_candidate ON decision (candidate);

CREATE TABLE promotion (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    decision INTEGER NOT NULL UNIQUE REFERENCES decision,
    tag TEXT NOT NULL REFERENCES lab,
    candidate INTEGER NOT NULL UNIQUE REFERENCES candidate,
    base INTEGER NOT NULL REFERENCES candidate,
    commit_id TEXT NOT NULL,
    promoted_at REAL NOT NULL
);

CREATE TABLE merge (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    decision INTEGER NOT NULL UNIQUE REFERENCES decision,
    tag TEXT NOT NULL REFERENCES lab,
    base INTEGER NOT NULL REFERENCES candidate,
    parts TEXT NOT NULL, -- JSON: ids of candidates
    merged TEXT NOT NULL, -- JSON: those of the parts that went in
    candidate INTEGER UNIQUE REFERENCES candidate,
    halving INTEGER NOT NULL,
    predicted REAL NOT NULL,
    problem TEXT NOT NULL CHECK ((candidate IS NULL) = (problem != ''))
);
CREATE INDEX merge_tag ON merge (tag);

CREATE TABLE search (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    settings TEXT NOT NULL, -- JSON of SearchSettings
    started_at REAL NOT NULL,
    active_s REAL NOT NULL DEFAULT 0,
    state TEXT NOT NULL CHECK (state IN ('running', 'claiming', 'ended')),
    reason TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX one_search ON search (tag) WHERE state != 'ended';

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
);
CREATE INDEX proposal_state ON proposal (tag, state);

CREATE TABLE claim (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tag TEXT NOT NULL REFERENCES lab,
    search INTEGER NOT NULL UNIQUE REFERENCES search,
    claim TEXT NOT NULL, -- JSON of Claim
    recorded_at REAL NOT NULL
);

CREATE TABLE event (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    tag TEXT NOT NULL,
    subject TEXT NOT NULL,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX event_tag ON event (tag, number);
