"""Kills random processes of a running search and sees that nothing is lost, doubled or left over.

    python benchmarks/chaos.py [--kills 20] [--seed 1] [--slots 2] [--hosts 3] [--kinds judge,candidate] [--keep]

A search of runs of a second, on a Ray head and with an agent of its own, below one temporary folder. Again and again a
process of a random kind is killed, or stopped and continued some seconds later. The head is started again as a user
would; the driver only when it, or the child that runs its queue, was killed. At the end the last search is let finish.
With `--hosts 3` the cluster is three hosts in namespaces of this machine (root; tests/cluster/hosts.sh), the first is
the head: `worker` is Ray on another one, `link` its cable, cut for 2 to 60 s. Within 10 to 30 s Ray takes such a node
for dead, and is started there again once it is reached. Every worker must take a run again at the end.
Exit code 1 unless every run has its one result, none is `invalid: no-result`, no driver gave up by itself, the ledger
is sound, and no process, lock, worktree, shared memory or host is left. Only its own processes are ever signalled.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import statistics
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout, nothing installed

from benchmarks.chaos_checks import given_up, left_over, lost_and_doubled
from benchmarks.chaos_hosts import HOST_KINDS, MOST_HOSTS, HostsRig, hosts_problem
from benchmarks.chaos_rig import HEAD_KINDS, KINDS, Rig, Victim, make_folder
from scheduler.policy.no_result import STATUS as NO_RESULT
from tests.scheduler.ledger_kit import broken_invariants

WEIGHTS = {"driver": 1, "queue": 2, "actor": 2, "raylet": 1, "gcs": 1, "judge": 3, "candidate": 3, "agent": 2,
           "worker": 2, "link": 4}  # fmt: skip
STOPS = 0.25  # share of SIGSTOP
LONGEST_STOP_S = 15.0
SHORT_CUT_S, DEADLY_CUT_S = (2.0, 20.0), (20.0, 60.0)
DEADLY_CUTS = 1 / 3
DRIVER_KINDS, FAR_KINDS = ("driver", "queue"), ("worker", "link")  # no driver may mind the latter
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
    kinds: tuple[str, ...]
    took: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    stopped: list[tuple[float, str, Victim]] = field(default_factory=list)  # continue it at that time; its kind
    driver_is_hit: bool = False  # it, or the head that it was still to join: its end is no fault of its own
    restarts: int = 0
    gave_up: list[str] = field(default_factory=list)
    searches: int = 0

    def tend(self, *, again: bool = True) -> bool:
        """What a user does: continue what was stopped, start what is gone. Whether the last search is over."""
        for due in [due for due in self.stopped if due[0] <= time.monotonic()]:
            self.stopped.remove(due)
            self.rig.resume(due[2])
        self.rig.tend_nodes()
        code = self.rig.driver.poll() if self.rig.driver else None
        over = code in SEARCH_OVER
        if self.rig.driver is None or (code is not None and (again or not over)):
            self.searches += over
            if code is not None and not over:
                self.restarts += 1
                if not self.driver_is_hit:
                    self.gave_up.append(f"a driver with exit code {code}, after:\n{self.rig.said()}")
            self.driver_is_hit = any(kind not in FAR_KINDS for _, kind, _ in self.stopped)  # it may be the head
            self.rig.start_driver()
        return over

    def strike(self) -> None:
        """One signal to one process, and wait until the lab went on. Raises Stuck."""
        kind, victim = self._choose()
        rests = kind == "link" or self.chance.random() < STOPS
        number = signal.SIGSTOP if rests else signal.SIGKILL
        before, at = self.rig.progress(), time.monotonic()
        if not victim.signal(number):
            return self.strike()
        self.driver_is_hit |= not rests if kind in DRIVER_KINDS else self._is_still_to_join(kind)
        name, whom = number.name, victim.label
        if rests:
            rests_s = self._rest_s(kind)
            self.stopped.append((at + rests_s, kind, victim))
            name, whom = ("CUT", f"{whom}, {rests_s:.0f} s") if kind == "link" else (name, whom)
        if kind in HEAD_KINDS and not rests:
            self._wait(lambda: not self.rig.is_head_whole(), f"the head noticed its {kind}'s death")
            self.tend()
            before = self.rig.progress()
        self._wait(lambda: self.rig.progress() > before, f"{name} of {kind} ({whom})")
        seconds = time.monotonic() - at
        self.took.setdefault((kind, name), []).append(seconds)
        print(f"{name:<7} {kind:<9} {whom:<12} went on after {seconds:5.1f} s", flush=True)

    def _rest_s(self, kind: str) -> float:
        """Until a stopped process goes on, or a cut link is there again."""
        if kind == "link":
            return self.chance.uniform(*(DEADLY_CUT_S if self.chance.random() < DEADLY_CUTS else SHORT_CUT_S))
        return self.chance.uniform(0.5, LONGEST_STOP_S)

    def _is_whole(self) -> bool:
        self.rig.tend_nodes()
        return self.rig.is_whole()

    def _is_still_to_join(self, kind: str) -> bool:
        return kind in HEAD_KINDS and not self.rig.has_joined()

    def finish(self) -> None:
        """Let every worker take a run, the search of now end, and nothing begin after it. Raises Stuck."""
        for _, _, victim in self.stopped:
            self.rig.resume(victim)
        self.stopped.clear()
        self._wait(self._is_whole, "all of Ray is up", tend=False)
        used = self.rig.attempts()
        self._wait(
            lambda: all(self.rig.attempts()[host] > used[host] for host in self.rig.workers), "every worker is used"
        )
        self._wait(lambda: self.tend(again=False), "the end of the search", FINISHES_S, tend=False)

    def _choose(self) -> tuple[str, Victim]:
        """A random kind among those that live, then one of it. A stopped one is not struck again."""
        deadline = time.monotonic() + GOES_ON_S
        while time.monotonic() < deadline:
            self.tend()
            resting = {victim.label for _, _, victim in self.stopped}
            found = {k: [v for v in vs if v.label not in resting] for k, vs in self.rig.victims().items()}
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


def report(chaos: Chaos, kills: int) -> int:
    """Print the table and the verdict; the exit code."""
    orphans = chaos.rig.end()
    lost, twice = lost_and_doubled(chaos.rig.ledger)
    broken, left = broken_invariants(chaos.rig.ledger), left_over(chaos.rig)
    left += chaos.rig.take_down()
    print(f"\n{'kind':<10} {'signal':<8} {'times':>5}   seconds until the lab went on (median, most)")
    for (kind, name), took in sorted(chaos.took.items()):
        print(f"{kind:<10} {name:<8} {len(took):>5}   {statistics.median(took):6.1f} {max(took):6.1f}")
    with closing(sqlite3.connect(chaos.rig.ledger)) as ledger:
        counts = [f"{name}s {ledger.execute(f'SELECT count(*) FROM {name}').fetchone()[0]}" for name in TABLES]
    print(f"{', '.join(counts)}; drivers started again: {chaos.restarts}")
    for note in chaos.rig.notes():
        print(note)
    failures = given_up(chaos.rig.ledger)
    blamed = [line for line in failures if line.endswith(NO_RESULT)]  # every kill here comes from outside
    print(f"results without a score: {', '.join(failures) or 'none'}")
    for what, found in (("lost", lost), ("twice", twice), ("ledger", broken), ("left", orphans + left),
                        ("blamed", blamed), ("gave up", chaos.gave_up)):  # fmt: skip
        for line in found:
            print(f"{what}: {line}")
    print(f"kills {kills}: lost {len(lost)}, twice {len(twice)}, orphans {len(orphans) + len(left)}")
    return 1 if lost or twice or broken or orphans or left or blamed or chaos.gave_up else 0


def kinds_of(text: str) -> tuple[str, ...]:
    """Raises ArgumentTypeError."""
    kinds = tuple(text.split(","))
    if unknown := set(kinds) - set(HOST_KINDS):
        raise argparse.ArgumentTypeError(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(HOST_KINDS)}")
    return kinds


def asked_for() -> argparse.Namespace:
    """What was typed; ends with exit code 2 and a sentence where that cannot be."""
    parser = argparse.ArgumentParser(description="Kill processes of a search at random; nothing may be lost.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slots", type=int, help="of each host; default 2, with --hosts 1")
    parser.add_argument("--hosts", type=int, help=f"2 to {MOST_HOSTS} in namespaces of this machine (root), not itself")
    parser.add_argument(
        "--kinds", type=kinds_of, help=f"of {', '.join(HOST_KINDS)} (the last two: --hosts), with commas"
    )
    parser.add_argument("--pause", type=float, default=4.0, help="the longest pause between two kills, in seconds")
    parser.add_argument("--keep", action="store_true", help="keep the folder, and say where it is")
    asked = parser.parse_args()
    if asked.hosts is None and (lacking := set(asked.kinds or ()) - set(KINDS)):
        parser.error(f"kind {', '.join(sorted(lacking))} needs several hosts: add --hosts 3")
    if asked.hosts is not None and not 2 <= asked.hosts <= MOST_HOSTS:
        parser.error(f"--hosts {asked.hosts}: give 2 to {MOST_HOSTS}, or leave it out for this machine alone")
    if asked.hosts is not None and (problem := hosts_problem()):
        print(problem, file=sys.stderr)
        raise SystemExit(2)
    return asked


def main() -> int:
    asked = asked_for()
    rig = Rig(make_folder(), asked.slots or 2) if asked.hosts is None else HostsRig(asked.hosts, asked.slots or 1)
    chaos = Chaos(rig, random.Random(asked.seed), asked.kinds or rig.kinds)
    done = 0
    try:
        rig.begin()
        chaos.tend()
        for done in range(1, asked.kills + 1):  # noqa: B007 - counted for the verdict
            time.sleep(chaos.chance.uniform(0, asked.pause))
            chaos.strike()
        chaos.finish()
        return report(chaos, done)
    except Stuck as problem:
        print(f"stuck after {done} kills: {problem}\nthe driver said last:\n{rig.said()}")
        report(chaos, done)
        return 1
    finally:
        rig.end()
        rig.take_down()
        if asked.keep:
            print(f"kept: {rig.folder}")
        else:
            rig.remove()


if __name__ == "__main__":
    sys.exit(main())
