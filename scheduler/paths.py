"""Every path of a lab below its repository; no path is put together anywhere else.

    <repo>/.arsched/ledger.db · scheduler.lock · submit.lock · live.json · stop · contract.json
    <repo>/.arsched/runs/<run>.<attempt>/ · proposals/
    <repo>/candidates/<name>/   <repo>/report/

Names only: nothing here is read or made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LabPaths:
    """`root` is the main worktree of the user's repository."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / ".arsched"

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.db"

    @property
    def turn_lock(self) -> Path:
        """Held by the one process that runs the queue."""
        return self.state / "scheduler.lock"

    @property
    def submit_lock(self) -> Path:
        """Held while candidates are checked and queued, so that two submits cannot both be the first."""
        return self.state / "submit.lock"

    @property
    def stop(self) -> Path:
        """Made by anyone who wants a search to end as by Ctrl-C: `touch .arsched/stop`."""
        return self.state / "stop"

    @property
    def proposals(self) -> Path:
        """What proposers write: worktrees and scratch files."""
        return self.state / "proposals"

    @property
    def live(self) -> Path:
        """What the slots are doing, replaced about once a second by whoever runs the queue. For display only."""
        return self.state / "live.json"

    @property
    def contract(self) -> Path:
        """The current lab's contract, as `python train.py` finds it when it runs alone."""
        return self.state / "contract.json"

    @property
    def runs(self) -> Path:
        return self.state / "runs"

    def run(self, run_id: str, attempt: int) -> Path:
        """Folder of one attempt's artefacts: result.json and run.log."""
        return self.runs / f"{run_id}.{attempt}"

    def result(self, run_id: str, attempt: int) -> Path:
        return self.run(run_id, attempt) / "result.json"

    def log(self, run_id: str, attempt: int) -> Path:
        return self.run(run_id, attempt) / "run.log"

    @property
    def candidates(self) -> Path:
        return self.root / "candidates"

    def candidate(self, name: str) -> Path:
        return self.candidates / name

    @property
    def report(self) -> Path:
        return self.root / "report"
