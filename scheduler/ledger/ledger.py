"""The ledger: the SQLite file that is the truth, its numbered migrations, its tables by subject, and its labs.

The first migration is schema.sql; one that shipped is never changed. Any number of processes may have the ledger open.
Decides nothing and looks at no clock but the one handed in.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import fields
from itertools import count
from pathlib import Path

from scheduler.domain.decision import GateSettings
from scheduler.domain.errors import LabProblem, LedgerProblem
from scheduler.domain.lab import SANDBOX_LEVELS, Lab, LabSnapshot
from scheduler.ledger.candidates import Candidates
from scheduler.ledger.copies import copy_database
from scheduler.ledger.db import BUSY_TIMEOUT_S, Database, LedgerUnwritable, P, T, is_lacking
from scheduler.ledger.decisions import Decisions
from scheduler.ledger.rows import Events, Table, encode, parse_lab, read_lab
from scheduler.ledger.runs import Runs
from scheduler.ledger.searches import Claims, Proposals, Searches
from scheduler.ledger.snapshot import Snapshots

SUBJECT = "lab"


class Labs(Table):
    """One row per tag, one of them current."""

    def create(self, lab: Lab) -> None:
        """Add a lab and make it the current one. Raises LabProblem when the tag is taken."""
        with self._database.transaction():
            if self._database.one("SELECT tag FROM lab WHERE tag = ?", lab.tag):
                raise LabProblem(f"lab {lab.tag!r} exists", f"go on with it (--tag {lab.tag}), or choose another tag")
            columns = {field.name: getattr(lab, field.name) for field in fields(lab)}
            self._database.insert("lab", **(columns | {"gates": encode(lab.gates)}))
            self._events.write(lab.tag, SUBJECT, "", "created", f"contract {lab.contract_name}")
            self.set_current(lab.tag)

    def current(self) -> Lab | None:
        row = self._database.one("SELECT * FROM lab WHERE is_current")
        return parse_lab(row) if row else None

    def get(self, tag: str) -> Lab:
        """Raises LabProblem for an unknown tag."""
        return read_lab(self._database, tag)

    def all(self) -> tuple[Lab, ...]:
        return tuple(parse_lab(row) for row in self._database.all("SELECT * FROM lab ORDER BY created_at, tag"))

    def set_current(self, tag: str) -> None:
        """Make this the lab that commands mean without --tag. Raises LabProblem for an unknown tag."""
        with self._database.transaction():
            self.get(tag)
            self._database.update("lab", "is_current AND tag != ?", tag, is_current=0)
            if self._database.update("lab", "tag = ? AND NOT is_current", tag, is_current=1):
                self._events.write(tag, SUBJECT, "", "current", "")

    def set_gates(self, tag: str, gates: GateSettings) -> None:
        """Change the promotion rule from here on; decisions taken keep the settings they were taken with."""
        with self._database.transaction():
            before = self.get(tag).gates
            self._database.update("lab", "tag = ?", tag, gates=encode(gates))
            self._events.write(tag, SUBJECT, before.name, gates.name, f"gates {encode(gates)}")

    def pause(self, tag: str, reason: str) -> bool:
        """From here on nothing new is placed and no idea asked for. False when it is paused already."""
        return self._set_paused(tag, self._clock(), "paused", reason)

    def resume(self, tag: str) -> bool:
        """False when it is not paused."""
        return self._set_paused(tag, None, "resumed", "")

    def _set_paused(self, tag: str, paused_at: float | None, to: str, reason: str) -> bool:
        with self._database.transaction():
            if (self.get(tag).paused_at is None) == (paused_at is None):
                return False
            self._database.update("lab", "tag = ?", tag, paused_at=paused_at)
            self._events.write(tag, SUBJECT, "", to, reason)
            return True


class Ledger(AbstractContextManager["Ledger"]):
    """Open with `Ledger.open(path)`, as a context manager or with `close()`. One thread per ledger."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._snapshots = database, Snapshots(database)
        self.events = Events(database, clock)
        shared = (database, self.events, clock)
        self.labs, self.runs = Labs(*shared), Runs(*shared)
        self.candidates = Candidates(self.runs, *shared)
        self.decisions = Decisions(database, self.board, self.candidates, self.runs, clock)
        self.searches, self.proposals, self.claims = Searches(*shared), Proposals(*shared), Claims(*shared)

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Callable[[], float] = time.time,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        durable: bool = True,
    ) -> Ledger:
        """Open the ledger, creating or migrating it. `clock` gives seconds since the epoch.

        `durable=False` is for ledgers that need not outlive a power cut. Raises LedgerProblem when it cannot be
        opened, is damaged, or is of a version that this program does not read.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise LedgerProblem(f"cannot make the folder of the ledger {path}: {problem.strerror}") from None
        database = Database(path, busy_timeout_s, durable=durable)
        try:
            try:
                migrate(database, clock())
                database.guard()
            except LedgerUnwritable as why:
                database.go_on_reading(why)
                migrate(database, clock())
            database.refuse_writing()
        except BaseException:
            database.close()
            raise
        return cls(database, clock)

    @property
    def unwritable(self) -> str:
        """Why nothing can be recorded and what is read is a copy in memory; "" when all is well."""
        return self._database.unwritable.message if self._database.unwritable else ""

    def ensure_current(self) -> None:
        """Raises LedgerProblem when what is read is a copy, which whoever waits for a change would wait on for good."""
        if self._database.unwritable is not None:
            raise self._database.unwritable

    def ensure_sound(self) -> None:
        """Read all of it, about a second for 100 MB. Raises LedgerProblem when it is damaged."""
        self._database.ensure_sound()

    def board(self, tag: str) -> LabSnapshot:
        """Every candidate of a lab with its scores. Raises LabProblem for an unknown tag or a lab without baseline."""
        return self._snapshots.read(tag)

    def snapshot(self) -> AbstractContextManager[None]:
        """Several reads of one state, whatever others write meanwhile."""
        return self._database.snapshot()

    def transaction(self) -> AbstractContextManager[None]:
        """Several changes, all or none."""
        return self._database.transaction()

    def per_stamp(self, read: Callable[P, T]) -> Callable[P, T]:
        """`read`, for equal arguments asked again only after something was written, by this process or another."""
        return self._database.per_stamp(read)

    def ensure_present(self) -> None:
        """Raises LedgerProblem when the files are no longer those that were opened."""
        self._database.ensure_present()

    def back_up(self, path: Path) -> None:
        """Copy it to a single file, there whole or as before. Raises LedgerProblem."""
        self._database.back_up(path)

    def close(self) -> None:
        self._database.close()

    def __exit__(self, *problem: object) -> None:
        self.close()


def latest_copy(paths: Iterable[Path]) -> Path | None:
    """Of the files that are whole ledgers, the one with the longest history."""
    found = {path: _history_of(path) for path in paths}
    return max(filter(found.get, found), key=lambda path: found[path], default=None)


def _history_of(path: Path) -> int:
    """Number of its last event; 0 for what is no whole ledger."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source:
        (kind,), (check,) = (
            source.execute("PRAGMA application_id").fetchone(),
            source.execute("PRAGMA quick_check").fetchone(),
        )
        if kind == APPLICATION_ID and check == "ok":
            return int(source.execute("SELECT coalesce(max(number), 0) FROM event").fetchone()[0])
    return 0


def set_aside(path: Path) -> Path | None:
    """Rename a ledger that is damaged or has no record at all, with its log; None where it is sound or not there.

    Raises LedgerProblem when that cannot be found out, or done.
    """
    if not path.is_file() or _has_record(path):
        return None
    kept = next(one for n in count(1) if not (one := path.with_name(f"{DAMAGED}{n}.db")).exists())
    try:
        for suffix in ("-wal", "-shm", ""):  # the file itself last: killed in between, it is found damaged again
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    except OSError as problem:
        raise LedgerProblem(
            f"the damaged ledger {path} cannot be renamed: {problem}", "see its folder's rights"
        ) from None
    return kept


def _has_record(path: Path) -> bool:
    """False where SQLite finds it damaged, and for a ledger, or an empty file, in which nothing was ever recorded."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as source:
            if [row[0] for row in source.execute("PRAGMA integrity_check(1)")] != ["ok"]:
                return False
            kind = source.execute("PRAGMA application_id").fetchone()[0]
            if source.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] and kind != APPLICATION_ID:
                return True  # another's: left as it is
            if kind:
                for table in ("migration", "lab", "candidate", "run", "attempt", "result"):
                    source.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
            return bool(kind and source.execute("SELECT count(*) FROM event").fetchone()[0])
    except sqlite3.OperationalError as problem:
        if is_lacking(problem):
            return False
        raise LedgerProblem(f"cannot read {path}: {problem}", "see that its disk has room and can be written") from None
    except sqlite3.DatabaseError:
        return False


def put_back(copy: Path, path: Path) -> None:
    """Make a copy the ledger at `path`, where none is; the copy stays. Raises LedgerProblem."""
    if path.is_dir():
        raise LedgerProblem(f"a folder lies at {path}, where the ledger belongs", "move it away, then try again")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for name in (f"{path.name}-wal", f"{path.name}-shm"):  # of one that is gone
            path.with_name(name).unlink(missing_ok=True)
        with closing(sqlite3.connect(copy)) as source:
            copy_database(source, path)
    except (sqlite3.Error, OSError) as problem:
        raise LedgerProblem(f"{copy} cannot be copied to {path}: {problem}", "has the disk room?") from None


DAMAGED = "ledger-damaged-"  # how the name of every ledger begins that was set aside
APPLICATION_ID = 0x4152534C  # "ARSL": marks a ledger among SQLite files
BEFORE_0_1 = 0x41525343  # "ARSC": of development versions
APPEND_ONLY = ("event", "decision", "promotion", "merge", "claim")
Migration = Callable[[Database], None]


def m001_tables(database: Database) -> None:
    """The tables of version 0.1; those of APPEND_ONLY refuse every change of a row."""
    statement = ""
    for line in Path(__file__).with_name("schema.sql").read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            database.execute(statement)
            statement = ""
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            database.execute(
                f"CREATE TRIGGER {table}_refuses_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} rows are append-only'); END"
            )


def m002_attempts(database: Database) -> None:
    """What an attempt's result has to say, and what an attempt without one says against its candidate.

    Attempts from before are lost: nothing tells their results from others.
    """
    for name in ("nonce", "charge"):
        database.execute(f"ALTER TABLE attempt ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")


def m003_sandbox(database: Database) -> None:
    """What a lab's candidates run in. Those of earlier labs had none, and their scores compare with such alone."""
    levels = ", ".join(f"'{level}'" for level in SANDBOX_LEVELS)
    column = f"sandbox TEXT NOT NULL DEFAULT 'off' CHECK (sandbox IN ({levels}))"
    database.execute(f"ALTER TABLE lab ADD COLUMN {column}")
    database.execute("UPDATE run SET pool = pool || ' / sandbox off' WHERE pool != ''")


def m004_audit(database: Database) -> None:
    """Runs may be audits: SQLite changes a CHECK by a copy of the table. Numbers given before are not given again."""
    _rebuild_runs(database, "'claim')", "'claim', 'audit')")


def m005_occasions(database: Database) -> None:
    """Candidates have seeds in common, and a result says how fast the machine was: NULL for those from before."""
    _rebuild_runs(database, ",\n    UNIQUE (tag, seed)", "")
    database.execute("CREATE INDEX run_claim ON run (tag, seed) WHERE kind = 'claim'")
    database.execute(
        "CREATE UNIQUE INDEX one_pending_run ON run (candidate, seed) WHERE state IN ('queued', 'running')"
    )
    database.execute("ALTER TABLE result ADD COLUMN speed REAL")


def m006_calibration(database: Database) -> None:
    """Runs may be of a calibration, which measures one program with one seed on several slots at a time."""
    _rebuild_runs(database, "'audit')", "'audit', 'calibration')")
    for index in ("run_claim", "one_pending_run"):
        database.execute(f"DROP INDEX {index}")
    database.execute("CREATE INDEX run_claim ON run (tag, seed) WHERE kind IN ('claim', 'calibration')")
    database.execute(
        "CREATE UNIQUE INDEX one_pending_run ON run (candidate, seed) "
        "WHERE state IN ('queued', 'running') AND kind != 'calibration'"
    )


def _rebuild_runs(database: Database, before: str, after: str) -> None:
    """The table of runs with this part of its schema replaced, its rows, indexes and numbers kept."""
    sql = database.one("SELECT sql FROM sqlite_master WHERE name = 'run'")["sql"]
    indexes = database.all("SELECT sql FROM sqlite_master WHERE tbl_name = 'run' AND type = 'index' AND sql NOT NULL")
    last = database.one("SELECT seq FROM sqlite_sequence WHERE name = 'run'")
    _, _, body = sql.replace(before, after).partition("(")
    database.execute(f"CREATE TABLE new_run ({body}")
    database.execute("INSERT INTO new_run SELECT * FROM run")
    database.execute("DROP TABLE run")
    database.execute("ALTER TABLE new_run RENAME TO run")
    for index in indexes:
        database.execute(index["sql"])
    if last is not None:
        database.execute("DELETE FROM sqlite_sequence WHERE name = 'run'")
        database.insert("sqlite_sequence", name="run", seq=last["seq"])


MIGRATIONS: tuple[Migration, ...] = (
    m001_tables,
    m002_attempts,
    m003_sandbox,
    m004_audit,
    m005_occasions,
    m006_calibration,
)


def migrate(database: Database, at: float, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to the newest schema.

    Raises LedgerProblem, having changed nothing, when the file is newer, of a development version, or no ledger.
    """
    applied = _applied(database)
    if applied > len(migrations):
        message = f"the ledger {database.path} has schema {applied}, this arsched knows up to {len(migrations)}"
        raise LedgerProblem(message, "update arsched to the version that wrote it")
    database.use_write_ahead_log()
    for number in range(applied + 1, len(migrations) + 1):
        # A migration may rebuild tables that others refer to; references are checked at its end.
        database.execute("PRAGMA foreign_keys = OFF")
        try:
            _apply(database, number, migrations[number - 1], at)
        finally:
            database.execute("PRAGMA foreign_keys = ON")


def _applied(database: Database) -> int:
    """How many migrations the file has; 0 for a new file."""
    with database.snapshot():
        application_id = database.one("PRAGMA application_id")[0]
        tables = database.one("SELECT count(*) FROM sqlite_master")[0]
        is_ledger = tables and application_id == APPLICATION_ID
        applied = database.one("SELECT max(number) FROM migration")[0] if is_ledger else 0
    if application_id == BEFORE_0_1:
        message = f"the ledger {database.path} was made by a development version of arsched, before 0.1"
        raise LedgerProblem(message, "finish it with that version, or start a new lab: arsched init in a fresh clone")
    if application_id != APPLICATION_ID and (application_id or tables):
        raise LedgerProblem(f"{database.path} is a database, but not a ledger of arsched", "move it away and try again")
    return int(applied)


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
        if dangling := database.all("PRAGMA foreign_key_check"):
            raise LedgerProblem(f"the ledger {database.path} is damaged: {dangling[0]['table']} refers to lost rows")
        database.insert("migration", number=number, name=migration.__name__, applied_at=at)
