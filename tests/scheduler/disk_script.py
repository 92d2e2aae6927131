"""Run inside a mount namespace of its own: a lab on a disk of 4 MB that is full, read-only, and then well again.

Prints one JSON object: verb -> (exit code, first words of stdout, stderr). Needs the rights to mount.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from scheduler.cli.main import main
from scheduler.domain.errors import ArschedError
from scheduler.queue.runner import run_queue
from tests.scheduler.lab_kit import PlayedLab
from tests.scheduler.ledger_kit import broken_invariants

READING = (
    "status",
    "leaderboard",
    "show better",
    "explain better",
    "logs r0001",
    "brief",
    "labs",
    "watch --once",
)


def fill(folder: Path) -> None:
    """To the last byte."""
    with (folder / "fill").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def said(*verbs: str) -> dict[str, tuple[int, str, str]]:
    done = {verb: CliRunner().invoke(main, verb.split()) for verb in verbs}
    return {verb: (one.exit_code, one.stdout[:4000], one.stderr) for verb, one in done.items()}


def leave_log(path: Path) -> None:
    """As a killed process leaves it: the last commits are in the log alone."""
    reader = sqlite3.connect(path)
    reader.execute("SELECT count(*) FROM event").fetchone()
    with sqlite3.connect(path) as writer:
        writer.execute("UPDATE lab SET paused_at = 5.0")
    saved = path.with_name("saved")
    saved.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(path.with_name(path.name + suffix), saved / (path.name + suffix))
    writer.close()
    reader.close()
    for file in saved.iterdir():
        file.replace(path.parent / file.name)
    saved.rmdir()


def main_script(disk: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], check=True)
    played = PlayedLab(disk / "x")
    played.submit("better", "SCORE = 1.7\n")
    rounds = 0

    def each_round() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 30:
            fill(disk)

    played.each_round = each_round
    found: dict[str, object] = {}
    try:
        run_queue(played.space, played.screen, played.means, lambda: False)
        found["queue"] = "went on with a full disk"
    except ArschedError as problem:
        found["queue"] = f"{problem.message}; {problem.hint}"
    played.space.ledger.close()
    os.chdir(played.space.repo.root)
    found["full"] = said(*READING, "search --runs 2")
    (disk / "fill").unlink()
    found["broken"] = broken_invariants(played.space.paths.ledger)
    again = PlayedLab.__new__(PlayedLab)
    again.__dict__ |= played.__dict__
    from scheduler.lab import open_workspace

    with open_workspace(clock=played.clock) as space:
        again.space = space
        found["again"] = run_queue(space, played.screen, played.means, lambda: False).value
        found["states"] = sorted({run.state.__class__.__name__ for run in space.ledger.runs.list("t")})
    found["broken after"] = broken_invariants(played.space.paths.ledger)
    leave_log(played.space.paths.ledger)
    fill(disk)
    found["full, with a log"] = said("status", "leaderboard", "resume")
    (disk / "fill").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    found["read-only, with a log"] = said("status", "show better", "report", "new wider")
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main_script(Path(sys.argv[1]))
