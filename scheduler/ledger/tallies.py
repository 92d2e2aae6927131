"""Numbers counted by the database, for questions asked many times a minute: no row becomes an object."""

from __future__ import annotations

from scheduler.ledger.db import Database

_FINISHED = """
SELECT count(*) FROM run JOIN result ON result.run = run.number
WHERE run.tag = ? AND run.kind != 'claim' AND result.recorded_at >= ?
"""

_LENGTHS = """
SELECT result.recorded_at - attempt.started_at AS seconds FROM result
JOIN run ON run.number = result.run JOIN attempt ON attempt.run = result.run AND attempt.number = result.attempt
WHERE run.tag = ? AND result.family = 'scored' ORDER BY result.number DESC LIMIT ?
"""

_RUNNING = "SELECT count(*) FROM run WHERE tag = ? AND state = 'running' AND kind != 'claim'"


class Tallies:
    def __init__(self, database: Database) -> None:
        self._database = database

    def finished_runs(self, tag: str, since: float) -> int:
        """Finished runs of every kind but claims whose result was recorded at `since` or later."""
        return int(self._database.one(_FINISHED, tag, since)[0])

    def running_runs(self, tag: str) -> int:
        """Runs on a slot now, claims left out."""
        return int(self._database.one(_RUNNING, tag)[0])

    def run_lengths_s(self, tag: str, last: int = 25) -> tuple[float, ...]:
        """How long the last scored runs held their slots, the latest first."""
        return tuple(row["seconds"] for row in self._database.all(_LENGTHS, tag, last))
