"""The ledger: the SQLite file that is the truth, its tables by subject, and its labs.

Any number of processes may have it open. Decides nothing and looks at no clock but the one handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path

from scheduler.domain.decision import GateSettings
from scheduler.domain.errors import LabProblem, LedgerProblem
from scheduler.domain.lab import Lab, LabSnapshot
from scheduler.ledger.candidates import Candidates
from scheduler.ledger.db import BUSY_TIMEOUT_S, Database
from scheduler.ledger.decisions import Decisions
from scheduler.ledger.rows import Events, Table, encode, parse_lab, read_lab
from scheduler.ledger.runs import Runs
from scheduler.ledger.schema import migrate
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
            self._database.execute("UPDATE lab SET is_current = 0 WHERE is_current AND tag != ?", tag)
            changed = self._database.execute("UPDATE lab SET is_current = 1 WHERE tag = ? AND NOT is_current", tag)
            if changed.rowcount:
                self._events.write(tag, SUBJECT, "", "current", "")

    def set_gates(self, tag: str, gates: GateSettings) -> None:
        """Change the promotion rule from here on; decisions taken keep the settings they were taken with."""
        with self._database.transaction():
            before = self.get(tag).gates
            self._database.execute("UPDATE lab SET gates = ? WHERE tag = ?", encode(gates), tag)
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
            self._database.execute("UPDATE lab SET paused_at = ? WHERE tag = ?", paused_at, tag)
            self._events.write(tag, SUBJECT, "", to, reason)
            return True


class Ledger(AbstractContextManager["Ledger"]):
    """Open with `Ledger.open(path)`, as a context manager or with `close()`. One thread per ledger."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._snapshots = Snapshots(database)
        self.per_stamp, self.snapshot, self.transaction = database.per_stamp, database.snapshot, database.transaction
        self.ensure_present, self.close = database.ensure_present, database.close
        self.events = Events(database, clock)
        shared = (database, self.events, clock)
        self.labs, self.runs = Labs(*shared), Runs(*shared)
        self.candidates = Candidates(self.runs, *shared)
        self.decisions = Decisions(database, self._snapshots, self.candidates, self.runs, clock)
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
            migrate(database, clock())
            database.guard()
        except BaseException:
            database.close()
            raise
        return cls(database, clock)

    def board(self, tag: str) -> LabSnapshot:
        """Every candidate of a lab with its scores. Raises LabProblem for an unknown tag or a lab without baseline."""
        return self._snapshots.read(tag)

    def __exit__(self, *problem: object) -> None:
        self.close()
