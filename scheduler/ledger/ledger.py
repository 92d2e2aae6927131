"""The ledger: the SQLite file that is the truth, and the rooms of its tables.

Any number of processes may have it open; each room says what it raises. Decides nothing and looks at no clock but the
one handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from scheduler.domain.errors import LedgerProblem
from scheduler.domain.lab import Board
from scheduler.ledger.board import Boards
from scheduler.ledger.candidates import Candidates
from scheduler.ledger.claims import Claims
from scheduler.ledger.db import BUSY_TIMEOUT_S, Database
from scheduler.ledger.decisions import Decisions
from scheduler.ledger.events import Events
from scheduler.ledger.labs import Labs
from scheduler.ledger.merges import Merges
from scheduler.ledger.migrations import migrate
from scheduler.ledger.proposals import Proposals
from scheduler.ledger.runs import Runs
from scheduler.ledger.searches import Searches
from scheduler.ledger.tallies import Tallies


class Ledger:
    """Open with `Ledger.open(path)`, as a context manager or with `close()`. One thread per ledger."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._boards = Boards(database)
        self._last_boards: dict[str, tuple[tuple[int, int], Board]] = {}  # with the stamp of their reading
        self.events = Events(database, clock)
        self.labs = Labs(database, self.events, clock)
        self.runs = Runs(database, self.events, clock)
        self.candidates = Candidates(database, self.events, self.runs, clock)
        self.decisions = Decisions(database, self._boards, self.labs, self.candidates, self.runs, clock)
        self.merges = Merges(database)
        self.searches = Searches(database, self.events, clock)
        self.proposals = Proposals(database, self.events, clock)
        self.claims = Claims(database, self.events, clock)
        self.tallies = Tallies(database)

    @classmethod
    def open(
        cls, path: Path, clock: Callable[[], float] = time.time, *, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> Ledger:
        """Open the ledger, creating or migrating it. `clock` gives seconds since the epoch.

        Raises LedgerProblem when it cannot be opened, is damaged, or is newer than this program.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise LedgerProblem(f"cannot make the folder of the ledger {path}: {problem.strerror}") from None
        database = Database(path, busy_timeout_s)
        try:
            migrate(database, clock())
            database.guard()
        except BaseException:
            database.close()
            raise
        return cls(database, clock)

    def board(self, tag: str) -> Board:
        """Every candidate of a lab with its scores. Raises LabProblem for an unknown tag or a lab without baseline."""
        if self._database.is_writing:
            return self._boards.read(self.labs.get(tag))
        stamp, last = self.stamp(), self._last_boards.get(tag)
        if last is None or last[0] != stamp:
            last = self._last_boards[tag] = (stamp, self._boards.read(self.labs.get(tag)))
        return last[1]

    def stamp(self) -> tuple[int, int]:
        """Two stamps that are equal mean that nothing was written in between, by this process or another.

        For whoever would else read the same again; not to be taken inside a transaction that may be undone.
        """
        return self._database.stamp()

    def snapshot(self) -> AbstractContextManager[None]:
        """Inside it every read is of the same moment, whatever other processes write. For readers only."""
        return self._database.snapshot()

    def transaction(self) -> AbstractContextManager[None]:
        """Several changes as one: all of them happen or none. Keep it short: it locks other writers out."""
        return self._database.transaction()

    def ensure_present(self) -> None:
        """Raises LedgerProblem when its files were deleted, moved or replaced since it was opened.

        Every read and every change asks by itself; this is for whoever waits without either.
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
