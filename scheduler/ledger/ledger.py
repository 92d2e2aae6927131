"""The ledger: the SQLite file that is the truth, its tables by subject, and its labs.

Any number of processes may have it open. Decides nothing and looks at no clock but the one handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

from scheduler.domain.decision import GateSettings
from scheduler.domain.errors import LabProblem, LedgerProblem
from scheduler.domain.lab import Lab, LabSnapshot
from scheduler.ledger.candidates import Candidates
from scheduler.ledger.db import BUSY_TIMEOUT_S, Database, PerStamp, Stamp
from scheduler.ledger.decisions import Decisions
from scheduler.ledger.rows import Events, encode, parse_lab, read_lab
from scheduler.ledger.runs import Runs
from scheduler.ledger.schema import migrate
from scheduler.ledger.searches import Claims, Proposals, Searches
from scheduler.ledger.snapshot import Snapshots

SUBJECT = "lab"
P = ParamSpec("P")
T = TypeVar("T")


class Labs:
    """One row per tag, one of them current."""

    def __init__(self, database: Database, events: Events, clock: Callable[[], float]) -> None:
        self._database, self._events, self._clock = database, events, clock

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


class Ledger:
    """Open with `Ledger.open(path)`, as a context manager or with `close()`. One thread per ledger."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._snapshots = Snapshots(database)
        self.events = Events(database, clock)
        self.labs = Labs(database, self.events, clock)
        self.runs = Runs(database, self.events, clock)
        self.candidates = Candidates(database, self.events, self.runs, clock)
        self.decisions = Decisions(database, self._snapshots, self.candidates, self.runs, clock)
        self.searches = Searches(database, self.events, clock)
        self.proposals = Proposals(database, self.events, clock)
        self.claims = Claims(database, self.events, clock)

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

    def per_stamp(self, read: Callable[P, T]) -> Callable[P, T]:
        """`read`, for equal arguments asked again only after something was written, by this process or another."""
        return PerStamp(self._database, read)

    def stamp(self) -> Stamp:
        """Equal stamps mean that nothing was written in between. Not to be taken inside a transaction."""
        return self._database.stamp()

    def snapshot(self) -> AbstractContextManager[None]:
        """Inside it every read is of the same state, whatever other processes write. For readers only."""
        return self._database.snapshot()

    def transaction(self) -> AbstractContextManager[None]:
        """Several changes as one: all of them happen or none. Keep it short: it locks other writers out."""
        return self._database.transaction()

    def ensure_present(self) -> None:
        """Raises LedgerProblem when its files were deleted, moved or replaced since it was opened.

        Every read and every change asks by itself; this is for one that waits without either.
        """
        self._database.ensure_present()

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
