"""What must hold at the end of chaos.py: asked of the ledger's file and of the folder, not of the code under test.

Not covered: processes, which the rig looks for, and the ledger's own promises (tests/scheduler/ledger_kit.py).
"""

from __future__ import annotations

import fcntl
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

from benchmarks.chaos_rig import Rig

CLOSES_S = 20.0  # for the kernel to close the files of what has ended


def lost_and_doubled(ledger: Path) -> tuple[list[str], list[str]]:
    """Runs without a final result, and runs with two. Which seeds a candidate may have twice, the invariants know."""
    with closing(sqlite3.connect(ledger)) as connection:
        lost = connection.execute(
            "SELECT run.number, run.state FROM run LEFT JOIN result ON result.run = run.number"
            " WHERE run.state IN ('queued', 'running') OR (run.state = 'finished' AND result.run IS NULL)"
        ).fetchall()
        lost += connection.execute("SELECT name, state FROM candidate WHERE state IN ('open', 'contender')").fetchall()
        lost += connection.execute(
            "SELECT name, state FROM candidate WHERE number NOT IN (SELECT candidate FROM run)"
        ).fetchall()
        twice = connection.execute("SELECT run FROM result GROUP BY run HAVING count(*) > 1").fetchall()
    return [str(row) for row in lost], [str(row) for row in twice]


def left_over(rig: Rig) -> list[str]:
    """Held locks, worktrees, temporary files of ours, and shared memory that no process has open.

    Asked again for a while: a process counts as ended before the kernel has closed its files.
    """
    deadline = time.monotonic() + CLOSES_S
    while (left := _left_now(rig)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _left_now(rig: Rig) -> list[str]:
    left = []
    for path in rig.folder.rglob("*.lock"):
        with suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left.append(f"a held lock: {path}")
    listed = subprocess.run(
        ["git", "worktree", "list", "--porcelain"], cwd=rig.root, capture_output=True, text=True, check=True
    ).stdout
    left += [f"a worktree: {line}" for line in listed.splitlines() if line.startswith("worktree ")][1:]
    left += [
        f"a lock file of git: {path}"
        for path in (rig.root / ".git").rglob("*.lock")
        if "arsched" not in str(path.relative_to(rig.root))
    ]
    labs = [
        folder
        for spool in rig.spools()
        for folder in spool.glob("*")
        if folder.name != "locks" and not folder.name.startswith(".")
    ]
    left += [f"a spool: {path}" for lab in labs for path in lab.iterdir() if path.name != "acknowledged"]
    left += [f"shared memory: {name}" for name in rig.shared_left()]
    return left


def given_up(ledger: Path) -> list[str]:
    """Results that say only that attempts were lost: final, but worth a look."""
    with closing(sqlite3.connect(ledger)) as connection:
        rows = connection.execute("SELECT status, count(*) FROM result WHERE family != 'scored' GROUP BY status")
        return [f"{count} × {status}" for status, count in rows]
