"""Which records of labs that ended may go: output of attempts, and what verbs of a laptop left at the head.

Only looked for; `actions/gc.py` removes. What a result says is in the ledger, which keeps it. Of a lab with anything
queued or running, of the current one and of runs that no lab here knows nothing is named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from scheduler.domain.run import Cancelled, Finished, Run
from scheduler.lab import LabPaths
from scheduler.ledger import Ledger
from scheduler.node.judge_process import is_locked

REMOTE_S = 7 * 86400.0  # output of a job that has ended is kept so long for a laptop that comes back


class Record(NamedTuple):
    """A folder that may go, and why."""

    path: Path
    reason: str


def records_of_runs(ledger: Ledger, paths: LabPaths, before: float) -> Iterator[Record]:
    """Folders of attempts of labs that are not current and in which nothing happened since `before` (epoch seconds)."""
    current = ledger.labs.current()
    for lab in ledger.labs.all():
        runs = ledger.runs.list(lab.tag)
        ends = [_end(run) for run in runs]
        if lab == current or any(end is None or end > before for end in ends):
            continue
        for run in runs:
            found = (paths.run(run.id, attempt) for attempt in range(1, run.attempts + 1))
            yield from (Record(path, f"output of lab {lab.tag}, which ended") for path in found if path.is_dir())


def _end(run: Run) -> float | None:
    match run.state:
        case Finished(finished_at=at) | Cancelled(at=at):
            return at
    return None


def records_of_laptops(remote: Path, now: float) -> Iterator[Record]:
    """Jobs that ended, files that were carried for them, and reports that no laptop has fetched, all unused for a week.

    While any job is at work nothing is named, because it may read those files. The caller holds `job_lock`.
    """
    jobs = folders_in(remote / "jobs")
    if any(is_locked(job / "lock") for job in jobs):
        return
    found = {"jobs": "a laptop's verb that ended", "files": "carried for a laptop's verb",
             "report": "no laptop has fetched it"}  # fmt: skip
    for name, what in found.items():
        old = (path for path in folders_in(remote / name) if last_change(path) <= now - REMOTE_S)
        yield from (Record(path, f"{what}, a week ago or more") for path in old)


def job_lock(remote: Path) -> Path:
    """Held while a job is looked for and begun (`remote/jobs.py`)."""
    return remote / "jobs" / "start.lock"


def last_change(folder: Path) -> float:
    """The latest change of a folder or of what lies right in it, in epoch seconds."""
    latest = 0.0
    with suppress(OSError):
        latest = folder.lstat().st_mtime
        latest = max([latest, *(entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(folder))])
    return latest


def folders_in(folder: Path) -> list[Path]:
    """Folders right in a folder, links to folders left out."""
    with suppress(OSError):
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    return []
