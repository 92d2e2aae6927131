"""Kills random processes of a running search and sees that nothing is lost, doubled or left over.

    python benchmarks/chaos.py [--kills 20] [--seed 1] [--slots 2] [--kinds judge,candidate] [--keep]

A search of runs of a second, on a Ray head and with an agent of its own, below one temporary folder. Again and again a
process of a random kind is killed, or stopped and continued some seconds later. The head is started again as a user
would; the driver only when it, or the child that runs its queue, was killed. At the end the last search is let finish.
Exit code 1 unless every run has its one result, none is `invalid: no-result`, no driver gave up by itself, the ledger
is sound, and no process, lock, worktree or shared memory is left. Only its own processes are ever signalled.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout, nothing installed

from benchmarks.chaos_rig import HEAD_KINDS, KINDS, Process, Rig
from scheduler.policy.no_result import STATUS as NO_RESULT
from tests.scheduler.ledger_kit import broken_invariants

WEIGHTS = {"driver": 1, "queue": 2, "actor": 2, "raylet": 1, "gcs": 1, "judge": 3, "candidate": 3, "agent": 2}
STOPS = 0.25  # share of SIGSTOP
LONGEST_STOP_S = 15.0
DRIVER_KINDS = ("driver", "queue")
GOES_ON_S = 300.0  # past that the lab is stuck
FINISHES_S = 900.0
SEARCH_OVER = (0, 4)
TABLES = ("search", "candidate", "run", "attempt", "claim")
POLL_S = 0.1


class Stuck(Exception):
    """The lab did not go on."""


@dataclass
class Chaos:
    """One rig under fire. `took` is per kind and signal: seconds until a run began or ended after it."""

    rig: Rig
    chance: random.Random
    kinds: tuple[str, ...] = KINDS
    took: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    stopped: list[tuple[float, Process]] = field(default_factory=list)  # continue it at that time
    driver_is_hit: bool = False  # it, or the head that it was still to join: its end is no fault of its own
    restarts: int = 0
    gave_up: list[str] = field(default_factory=list)
    searches: int = 0

    def tend(self, *, again: bool = True) -> bool:
        """What a user does: continue what was stopped, start what is gone. Whether the last search is over."""
        for due in [due for due in self.stopped if due[0] <= time.monotonic()]:
            self.stopped.remove(due)
            due[1].signal(signal.SIGCONT)
        if not self.rig.is_head_whole():
            self.rig.restart_head()
        code = self.rig.driver.poll() if self.rig.driver else None
        over = code in SEARCH_OVER
        if self.rig.driver is None or (code is not None and (again or not over)):
            self.searches += over
            if code is not None and not over:
                self.restarts += 1
                if not self.driver_is_hit:
                    self.gave_up.append(f"a driver with exit code {code}, after:\n{self.rig.said()}")
            self.driver_is_hit = bool(self.stopped)  # it may be the head
            self.rig.start_driver()
        return over

    def strike(self) -> None:
        """One signal to one process, and wait until the lab went on. Raises Stuck."""
        kind, victim = self._choose()
        number = signal.SIGSTOP if self.chance.random() < STOPS else signal.SIGKILL
        before, at = self.rig.progress(), time.monotonic()
        if not victim.signal(number):
            return self.strike()
        self.driver_is_hit |= number is signal.SIGKILL if kind in DRIVER_KINDS else self._is_still_to_join(kind)
        if number is signal.SIGSTOP:
            self.stopped.append((at + self.chance.uniform(0.5, LONGEST_STOP_S), victim))
        if kind in HEAD_KINDS and number is signal.SIGKILL:
            self._wait(lambda: not self.rig.is_head_whole(), f"the head noticed its {kind}'s death")
            self.tend()
            before = self.rig.progress()
        self._wait(lambda: self.rig.progress() > before, f"{number.name} of {kind} (pid {victim.pid})")
        seconds = time.monotonic() - at
        self.took.setdefault((kind, number.name), []).append(seconds)
        print(f"{number.name:<7} {kind:<9} pid {victim.pid:<8} went on after {seconds:5.1f} s", flush=True)

    def _is_still_to_join(self, kind: str) -> bool:
        return kind in HEAD_KINDS and not self.rig.has_joined()

    def finish(self) -> None:
        """Let the search of now end, and nothing begin after it. Raises Stuck."""
        for _, process in self.stopped:
            process.signal(signal.SIGCONT)
        self.stopped.clear()
        self._wait(lambda: self.tend(again=False), "the end of the search", FINISHES_S, tend=False)

    def _choose(self) -> tuple[str, Process]:
        """A random kind among those that live, then one of it. A stopped one is not struck again."""
        deadline = time.monotonic() + GOES_ON_S
        while time.monotonic() < deadline:
            self.tend()
            resting = {process.pid for _, process in self.stopped}
            found = {k: [p for p in ps if p.pid not in resting] for k, ps in self.rig.by_kind().items()}
            wanted = self.chance.choices(self.kinds, [WEIGHTS[kind] for kind in self.kinds])[0]
            if found[wanted]:
                return wanted, self.chance.choice(found[wanted])
            time.sleep(POLL_S)
        raise Stuck("nothing was there to be killed")

    def _wait(self, condition: object, what: str, limit_s: float = GOES_ON_S, *, tend: bool = True) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():  # type: ignore[operator]
            if time.monotonic() > deadline:
                raise Stuck(f"{what}: not within {limit_s:.0f} s")
            if tend:
                self.tend()
            time.sleep(POLL_S)


def lost_and_doubled(ledger: Path) -> tuple[list[str], list[str]]:
    """Runs without a final result, and runs or seeds of a candidate with two."""
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
        twice += connection.execute(
            "SELECT candidate, seed FROM run JOIN result ON result.run = run.number WHERE family != 'infra'"
            " GROUP BY candidate, seed HAVING count(*) > 1"
        ).fetchall()
    return [str(row) for row in lost], [str(row) for row in twice]


def left_over(rig: Rig, shared_before: set[str]) -> list[str]:
    """Held locks, worktrees, temporary files of ours, and shared memory that no process has open."""
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
        for folder in (rig.folder / "spool").glob("*")
        if folder.name != "locks" and not folder.name.startswith(".")
    ]
    left += [f"a spool: {path}" for lab in labs for path in lab.iterdir() if path.name != "acknowledged"]
    used = {os.readlink(fd) for fd in Path("/proc").glob("[0-9]*/fd/*") if is_shared(fd)}
    left += [f"shared memory: /dev/shm/{name}" for name in set(os.listdir("/dev/shm")) - shared_before
             if f"/dev/shm/{name}" not in used]  # fmt: skip
    return left


def is_shared(path: Path) -> bool:
    with suppress(OSError):
        return os.readlink(path).startswith("/dev/shm/")
    return False


def given_up(ledger: Path) -> list[str]:
    """Results that say only that attempts were lost: final, but worth a look."""
    with closing(sqlite3.connect(ledger)) as connection:
        rows = connection.execute("SELECT status, count(*) FROM result WHERE family != 'scored' GROUP BY status")
        return [f"{count} × {status}" for status, count in rows]


def report(chaos: Chaos, kills: int) -> int:
    """Print the table and the verdict; the exit code."""
    shared_before: set[str] = SHARED_BEFORE
    orphans = chaos.rig.end()
    lost, twice = lost_and_doubled(chaos.rig.ledger)
    broken, left = broken_invariants(chaos.rig.ledger), left_over(chaos.rig, shared_before)
    print(f"\n{'kind':<10} {'signal':<8} {'times':>5}   seconds until the lab went on (median, most)")
    for (kind, name), took in sorted(chaos.took.items()):
        print(f"{kind:<10} {name:<8} {len(took):>5}   {statistics.median(took):6.1f} {max(took):6.1f}")
    with closing(sqlite3.connect(chaos.rig.ledger)) as ledger:
        counts = [f"{name}s {ledger.execute(f'SELECT count(*) FROM {name}').fetchone()[0]}" for name in TABLES]
    print(f"{', '.join(counts)}; drivers started again: {chaos.restarts}")
    failures = given_up(chaos.rig.ledger)
    blamed = [line for line in failures if line.endswith(NO_RESULT)]  # every kill here comes from outside
    print(f"results without a score: {', '.join(failures) or 'none'}")
    for what, found in (("lost", lost), ("twice", twice), ("ledger", broken), ("left", orphans + left),
                        ("blamed", blamed), ("gave up", chaos.gave_up)):  # fmt: skip
        for line in found:
            print(f"{what}: {line}")
    print(f"kills {kills}: lost {len(lost)}, twice {len(twice)}, orphans {len(orphans) + len(left)}")
    return 1 if lost or twice or broken or orphans or left or blamed or chaos.gave_up else 0


SHARED_BEFORE = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def kinds_of(text: str) -> tuple[str, ...]:
    """Raises ArgumentTypeError."""
    kinds = tuple(text.split(","))
    if unknown := set(kinds) - set(KINDS):
        raise argparse.ArgumentTypeError(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill processes of a search at random; nothing may be lost.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--kinds", type=kinds_of, default=KINDS, help=f"of {', '.join(KINDS)}, with commas")
    parser.add_argument("--pause", type=float, default=4.0, help="the longest pause between two kills, in seconds")
    parser.add_argument("--keep", action="store_true", help="keep the folder, and say where it is")
    asked = parser.parse_args()
    chaos = Chaos(
        Rig(Path(tempfile.mkdtemp(prefix="arsched-chaos-")), asked.slots), random.Random(asked.seed), asked.kinds
    )
    done = 0
    try:
        chaos.rig.begin()
        chaos.tend()
        for done in range(1, asked.kills + 1):  # noqa: B007 - counted for the verdict
            time.sleep(chaos.chance.uniform(0, asked.pause))
            chaos.strike()
        chaos.finish()
        return report(chaos, done)
    except Stuck as problem:
        print(f"stuck after {done} kills: {problem}\nthe driver said last:\n{chaos.rig.said()}")
        report(chaos, done)
        return 1
    finally:
        chaos.rig.end()
        if asked.keep:
            print(f"kept: {chaos.rig.folder}")
        else:
            chaos.rig.remove()


if __name__ == "__main__":
    sys.exit(main())
