"""What the tests of the ledger share: a small lab, results as a judge writes them, and the invariants.

The invariants are checked by plain SQL on a connection of their own, not through the code under test.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from scheduler.domain.candidate import Candidate, CandidateState, NewCandidate, Origin, Source
from scheduler.domain.decision import PRESETS, Assembled, Effect, GateSettings, Noise
from scheduler.domain.lab import Lab
from scheduler.domain.run import Result, Run, RunKind, parse_result
from scheduler.domain.slot import Slot
from scheduler.ledger import Ledger
from scheduler.ledger.db import Database
from scheduler.ledger.ledger import MIGRATIONS


def m002_priority(database: Database) -> None:
    """A change such as a later version may need: runs get a column and a wider CHECK, which SQLite makes by a copy."""
    sql = database.one("SELECT sql FROM sqlite_master WHERE name = 'run'")["sql"]
    sql = sql.replace('CREATE TABLE "run"', "CREATE TABLE new_run").replace("'cancelled')", "'cancelled', 'parked')")
    sql = sql.replace("note TEXT", "priority INTEGER NOT NULL DEFAULT 0,\n    note TEXT")
    columns = ", ".join(row["name"] for row in database.all("PRAGMA table_info(run)"))
    indexes = database.all("SELECT sql FROM sqlite_master WHERE tbl_name = 'run' AND type = 'index' AND sql NOT NULL")
    database.execute(sql)
    database.execute(f"INSERT INTO new_run ({columns}) SELECT {columns} FROM run")
    database.execute("DROP TABLE run")
    database.execute("ALTER TABLE new_run RENAME TO run")
    for index in indexes:
        database.execute(index["sql"])


CHANGED = (*MIGRATIONS, m002_priority)
NOISE = Noise(sigma=0.005, df=2)
SLOT = Slot("node-a/cpu0", "node-a", "boot-1", "cpu", "a CPU", "pool-a", "cache-1")


class Clock:
    """Seconds that pass only when set."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_lab(tag: str = "t", gates: GateSettings = PRESETS["default"]) -> Lab:
    return Lab(tag, f"lab-{tag}", f"autoresearch/{tag}", "cpu", "d1", "{}", "cache-1", "cpu", 0.005, gates, 1000.0)


def open_ledger(path: Path, clock: Clock | None = None, *, through_to_disk: bool = False) -> Ledger:
    """A ledger that does not wait for the disk: only a power cut could tell, and tests are quicker."""
    return Ledger.open(path, clock or Clock(), durable=through_to_disk)


def add_candidate(ledger: Ledger, name: str, tag: str = "t", base_id: str | None = "c0001", runs: int = 1) -> Candidate:
    new = NewCandidate(
        source_of(name),
        name,
        commit=f"{name:x<40}"[:40],
        base_id=base_id,
        title=f"try {name}",
        author="a test",
        kind=RunKind.BASELINE if base_id is None else RunKind.NEW,
        runs=runs,
        state=CandidateState.BASELINE if base_id is None else CandidateState.OPEN,
        origin=Origin.BASELINE if base_id is None else Origin.SUBMITTED,
    )
    return ledger.candidates.add(tag, new)


def source_of(name: str) -> Source:
    return Source(f"NAME = {name!r}\n".encode(), f"sha of {name}", f"fingerprint of {name}", 1)


def merged_program(name: str, *merged: str) -> Assembled:
    """What merging candidates would give."""
    commit, source = f"{name:x<40}"[:40], source_of(name)
    return Assembled(
        *(name, f"union {name}", commit, source.data, source.sha256, source.fingerprint, source.code_lines, merged)
    )


def start_lab(
    ledger: Ledger,
    tag: str = "t",
    scores: tuple[float, ...] = (1.90, 1.91, 1.92),
    gates: GateSettings = PRESETS["default"],
    contract_json: str = "{}",
) -> Candidate:
    """A lab whose baseline has these scores."""
    ledger.labs.create(replace(make_lab(tag, gates), contract_json=contract_json))
    baseline = add_candidate(ledger, "baseline", tag, base_id=None, runs=max(1, len(scores)))
    for run, val_bpb in zip(ledger.runs.queued(tag), scores, strict=False):
        finish(ledger, run, ok(val_bpb))
    return baseline


def finish(ledger: Ledger, run: Run, result: Result, slot: Slot = SLOT) -> None:
    attempt = ledger.runs.lease(run.id, slot, expires_at=2000.0)
    assert attempt is not None
    assert ledger.runs.record(run.id, attempt, result)


def measure(ledger: Ledger, candidate: Candidate, *scores: float) -> None:
    """Finish the queued runs of a candidate with these scores."""
    mine = [run for run in ledger.runs.queued(candidate.tag) if run.candidate_id == candidate.id]
    for run, val_bpb in zip(mine, scores, strict=True):
        finish(ledger, run, ok(val_bpb))


def ok(val_bpb: float, **more: object) -> Result:
    return result_of("ok", val_bpb=val_bpb, val_bpb_upstream=val_bpb + 0.001, **more)


def result_of(status: str, **more: object) -> Result:
    return parse_result(json.dumps({"format": 1, "status": status, **more}))


def effect(n_candidate: int = 1, n_base: int = 3, diff: float = -0.05) -> Effect:
    return Effect(diff, 0.006, 0.005, n_candidate, n_base, 0.99, diff * 0.9)


def broken_invariants(path: Path) -> list[str]:
    """Names of the promises the file breaks, with the rows that break them. Empty for a sound ledger."""
    with closing(sqlite3.connect(path)) as connection:
        found = []
        for promise, query in INVARIANTS.items():
            rows = connection.execute(query).fetchall()
            if rows and rows != [("ok",)]:
                found.append(f"{promise}: {rows[:5]}")
        return found


INVARIANTS = {
    "the file is sound": "PRAGMA integrity_check",
    "references lead somewhere": "PRAGMA foreign_key_check",
    "a run has at most one result": "SELECT run, count(*) FROM result GROUP BY run HAVING count(*) > 1",
    "finished means a result, a result means finished": (
        "SELECT run.number, state FROM run LEFT JOIN result ON result.run = run.number"
        " WHERE (state = 'finished') != (result.run IS NOT NULL)"
    ),
    "a running run has one open attempt, its last; no other has any": (
        "SELECT number, state FROM run WHERE (state = 'running') != "
        "(SELECT count(*) = 1 AND max(a.number) = run.attempts FROM attempt a"
        " WHERE a.run = run.number AND a.ended_at IS NULL)"
    ),
    "attempts are numbered 1 to n": (
        "SELECT number, attempts FROM run WHERE attempts != (SELECT count(*) FROM attempt WHERE run = run.number)"
        " OR attempts != coalesce((SELECT max(number) FROM attempt WHERE run = run.number), 0)"
    ),
    "an ended attempt has an outcome": "SELECT run, number FROM attempt WHERE (ended_at IS NULL) != (outcome = '')",
    "a result is of an attempt that ended with it": (
        "SELECT result.run FROM result JOIN attempt a ON a.run = result.run AND a.number = result.attempt"
        " WHERE a.ended_at IS NULL OR (a.outcome != result.status AND a.outcome != 'lost')"
    ),
    "no candidate without runs and source": (
        "SELECT number FROM candidate WHERE number NOT IN (SELECT candidate FROM run)"
        " OR number NOT IN (SELECT candidate FROM source)"
    ),
    "a lab with candidates has one baseline": (
        "SELECT tag, sum(state = 'baseline') FROM candidate GROUP BY tag HAVING sum(state = 'baseline') != 1"
    ),
    "each promotion left one former baseline": (
        "SELECT tag FROM candidate GROUP BY tag HAVING sum(state = 'promoted') !="
        " (SELECT count(*) FROM promotion WHERE promotion.tag = candidate.tag)"
    ),
    "a promotion has its decision": (
        "SELECT decision FROM promotion WHERE decision NOT IN (SELECT number FROM decision WHERE kind = 'promote')"
    ),
    "a merge has its decision, a decision to merge its merge": (
        "SELECT decision.number, merge.number FROM decision LEFT JOIN merge ON merge.decision = decision.number"
        " WHERE (decision.kind = 'combine') != (merge.number IS NOT NULL)"
    ),
    "a merged candidate has its merge, on its base": (
        "SELECT c.number FROM candidate c LEFT JOIN merge ON merge.candidate = c.number"
        " WHERE (c.origin IN ('union', 'port')) != (merge.number IS NOT NULL) OR merge.base != c.base"
    ),
    "an idea brings one candidate": (
        "SELECT candidate FROM proposal WHERE state = 'queued' GROUP BY candidate HAVING count(*) > 1"
    ),
    # At the time the run was queued: one before it that was cancelled or lost since had its seed then.
    "no candidate has a seed twice, but as a baseline or a repeat that has had three": (
        "WITH ran AS (SELECT run.*, state != 'cancelled' AND coalesce(family, '') != 'infra' AS had,"
        " (SELECT min(event.number) FROM event WHERE subject = printf('r%04d', run.number)) AS queued_event,"
        " (SELECT max(event.number) FROM event WHERE subject = printf('r%04d', run.number)) AS last_event"
        " FROM run LEFT JOIN result ON result.run = run.number WHERE kind != 'calibration')"
        " SELECT again.number FROM ran AS again JOIN ran AS first ON first.had AND first.candidate = again.candidate"
        " AND first.seed = again.seed AND first.number < again.number WHERE again.had"
        " AND (again.kind NOT IN ('baseline', 'repeat') OR 3 > (SELECT count(DISTINCT seed) FROM ran AS before"
        " WHERE before.candidate = again.candidate"
        " AND before.number < again.number AND (before.had OR before.last_event > again.queued_event)))"
    ),
    "the history ends where each run stands": (
        "SELECT run.number, run.state FROM run WHERE run.state !="
        " (SELECT to_state FROM event WHERE subject = printf('r%04d', run.number) ORDER BY event.number DESC LIMIT 1)"
    ),
    "the history ends where each candidate stands": (
        "SELECT c.number, c.state FROM candidate c WHERE c.state !="
        " (SELECT to_state FROM event WHERE subject = printf('c%04d', c.number) ORDER BY event.number DESC LIMIT 1)"
    ),
    "the history ends where each proposal and each search stands": (
        "SELECT subject, state FROM (SELECT printf('p%04d', number) AS subject, state FROM proposal"
        " UNION ALL SELECT printf('s%04d', number), state FROM search) AS moved WHERE state !="
        " (SELECT to_state FROM event WHERE subject = moved.subject ORDER BY number DESC LIMIT 1)"
    ),
    "the history has no gap": (
        "SELECT number FROM event e WHERE subject != 'lab' AND subject NOT LIKE '%.%'"
        " AND from_state != coalesce((SELECT to_state FROM event p WHERE p.subject = e.subject"
        " AND p.number < e.number ORDER BY p.number DESC LIMIT 1), '')"
    ),
}
