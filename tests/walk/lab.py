"""A user's lab in a temporary folder: a repository, a tiny prepared contract, `arsched` as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.harness.judging import CANDIDATES, Rig

COUNTING = (CANDIDATES / "bigram.py").read_text()
TABLE = "counts / counts.sum(axis=1, keepdims=True)"
# The validation rows are random tokens: knowing nothing is the best anybody can do, and being sure is the worst.
GOOD = COUNTING.replace(TABLE, "np.full((width, width), 1 / width)")
BAD = COUNTING.replace(TABLE, "(counts / counts.sum(axis=1, keepdims=True)) ** 3")
CRASH = COUNTING.replace("counts = np.ones", "raise RuntimeError('out of ideas')\ncounts = np.ones")


@dataclass(frozen=True)
class Said:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class UsersLab:
    """`arsched` run by a user in a fresh repository; every process it starts carries the rig's folder."""

    def __init__(self, rig: Rig, extra: Mapping[str, str] | None = None) -> None:
        self.rig = rig
        self.root = rig.folder / "repository"
        self.root.mkdir()
        self.environ = {**rig.environment, **(extra or {}), "ARSCHED_SPOOL": str(rig.folder / "spool")}
        (self.root / "train.py").write_text(COUNTING)
        for command in (["init", "-q"], ["add", "train.py"], ["commit", "-qm", "start"]):
            subprocess.run(["git", *IDENTITY, *command], cwd=self.root, check=True)

    def candidate(self, name: str, source: str) -> str:
        """A single-file candidate next to the repository's own files; returns its path as a user would type it."""
        path = self.root / "candidates" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{source}\nNAME = {name!r}\n")
        return f"candidates/{name}.py"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli.main", *arguments],
            cwd=self.root,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def arsched(self, *arguments: str, timeout_s: float = 240.0) -> Said:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout_s)
        return Said(process.returncode, out, err)

    def statuses(self) -> dict[str, str]:
        """Candidate name -> status, from the leaderboard."""
        rows = self.arsched("leaderboard", "--json").json["candidates"]
        return {row["name"]: row["status"] for row in rows}

    def results(self) -> dict[str, int]:
        """Run id -> how many results the history holds for it."""
        from scheduler.ledger import Ledger

        with Ledger.open(self.root / ".git" / "arsched" / "ledger.db") as ledger:
            events = ledger.events.list("search")
        counts: dict[str, int] = {}
        for event in events:
            if event.to_state == "finished":
                counts[event.subject] = counts.get(event.subject, 0) + 1
        return counts


IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
assert GOOD != COUNTING != BAD != CRASH != GOOD, os.fspath(CANDIDATES)
