"""Are the slots always busy while ideas take minutes to write? The shipped search on a virtual clock.

    python benchmarks/sim_search.py [--hours 8] [--slots 8] [--workers 8] [--medians 60,180,300] [--seed 0]

Loop, ledger (not synced to disk), promotion rule, supply and claim are the real ones. Stand-ins: slots in memory whose
runs take 330 s ± 2 %, a proposer whose latency is lognormal (shape 0.7) around the given median that reads no brief,
and commits kept in a dictionary (merges are git's own). An idea changes one of the constants of a program by an effect
drawn as in the published search; a score is their sum plus noise of 0.001 bpb.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices in several processes: threads only wait
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout, nothing installed

from benchmarks.simulation.worlds import published_effect
from scheduler.domain.candidate import CandidateState, NewCandidate, Origin
from scheduler.domain.decision import PRESETS
from scheduler.domain.lab import Lab
from scheduler.domain.run import Finished, RunKind
from scheduler.domain.search import Answer, Ask, Proposed, ProposerChoice, SearchBudget, SearchSettings
from scheduler.domain.slot import RunOrder
from scheduler.git import Repo
from scheduler.lab import LabPaths, Workspace
from scheduler.ledger import Ledger
from scheduler.policy.source import read_source
from scheduler.queue.runtime import PollIntervals, PoolHandle, Runtime
from scheduler.search.session import SearchEnding, run_search
from tests.scheduler.lab_kit import RecordingScreen
from tests.scheduler.memory_pool import Finishes, MemoryPool, Outcome, VirtualClock

TAG, RUN_S, SHAPE, SIGMA, FIRST_BPB = "search", 330.0, 0.7, 0.001, 1.0
CEILING = 3600 / RUN_S  # runs per slot-hour
CONSTANTS = 60  # of a program; an idea changes one, so two ideas seldom touch neighbouring lines
ROUND_S = 0.1


class Programs:
    """Programs whose true score is the sum of their constants; effects as in the published search."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._known: dict[str, float] = {}

    def first(self) -> bytes:
        return "".join(f"C{number} = 0.0\n\n\n" for number in range(CONSTANTS)).encode()

    def changed(self, source: bytes) -> bytes:
        """The program after one idea, good or bad."""
        values = _constants(source)
        gained = -sum(values)
        draw = self._random
        lots, normal, exponential = [draw.random() for _ in range(3)], draw.gauss(0, 1), draw.expovariate(1)
        values[draw.randrange(CONSTANTS)] += published_effect(lots, normal, exponential, gained)
        return "".join(f"C{number} = {value!r}\n\n\n" for number, value in enumerate(values)).encode()

    def true_bpb(self, source: bytes) -> float:
        key = hashlib.sha256(source).hexdigest()
        if key not in self._known:
            self._known[key] = FIRST_BPB + math.fsum(_constants(source))
        return self._known[key]


def _constants(source: bytes) -> list[float]:
    tree = ast.parse(source)
    return [float(ast.literal_eval(node.value)) for node in tree.body if isinstance(node, ast.Assign)]


@dataclass
class LatentProposer:
    """Writes one idea per worker; how long that takes is lognormal around `median_s`."""

    clock: Callable[[], float]
    programs: Programs
    median_s: float
    capacity: int
    seed: int
    name: str = "writer"
    writing: list[tuple[float, Ask]] = field(default_factory=list)

    def ask(self, ask: Ask) -> None:
        lot = random.Random(f"{self.seed} {ask.id}")
        self.writing.append((self.clock() + self.median_s * math.exp(lot.gauss(0, SHAPE)), ask))

    def poll(self) -> tuple[Answer, ...]:
        now = self.clock()
        ready = [ask for at, ask in self.writing if at <= now]
        self.writing = [(at, ask) for at, ask in self.writing if at > now]
        return tuple(Proposed(ask.id, self.programs.changed(ask.train_py), f"idea {ask.id}") for ask in ready)

    def close(self) -> None:
        self.writing.clear()


class Commits:
    """Stands in for the repository: what the loop asks of git, kept in memory. Merges are git's own."""

    def __init__(self, root: Path) -> None:
        self.root, self.common_dir = root, root
        self._files: dict[str, bytes] = {}
        self._branches: dict[str, str] = {}

    def commit_train_py(self, parent: str, data: bytes, message: str, trailers: Mapping[str, str]) -> str:
        commit = hashlib.sha1(f"{parent} {len(self._files)}".encode() + data).hexdigest()
        self._files[commit] = data
        return commit

    def read(self, commit: str, path: str) -> bytes:
        return self._files[commit]

    def keep_ref(self, tag: str, candidate_id: str, commit: str) -> str:
        return f"refs/arsched/{tag}/{candidate_id}"

    def create_branch(self, name: str, commit: str) -> None:
        self._branches[name] = commit

    def branch_commit(self, name: str) -> str | None:
        return self._branches.get(name)

    def move_branch(self, name: str, new: str, old: str) -> str:
        self._branches[name] = new
        return ""

    merge_train_py = staticmethod(Repo.merge_train_py)


@dataclass(frozen=True)
class SearchFigures:
    """`utilisation` is over the time in which ideas were asked for."""

    median_s: float
    utilisation: float
    runs: int
    runs_per_slot_hour: float
    promotions: int
    unions: int
    true_gain: float
    ending: SearchEnding
    wall_s: float


class SearchSimulation:
    """One search in a folder of its own."""

    def __init__(
        self, folder: Path, *, slots: int = 8, workers: int = 8, median_s: float = 60.0, seed: int = 0
    ) -> None:
        self.clock, self.programs, self.screen = VirtualClock(1000.0), Programs(seed), RecordingScreen()
        self.slots, self.median_s, self.seed = slots, median_s, seed
        self.pool = MemoryPool(slots, self._outcome, self.clock)
        self.proposer = LatentProposer(self.clock, self.programs, median_s, workers, seed)
        self.ends: list[float] = []  # of every run begun
        self.space = self._lab(folder)

    def play(self, hours: float, claim_runs: int = 4) -> SearchFigures:
        began_at, began_wall = self.clock(), time.perf_counter()
        sources = (ProposerChoice("writer"), ProposerChoice("union"))
        wanted = SearchSettings(SearchBudget(hours=hours), sources, claim_runs=claim_runs)
        intervals = PollIntervals(round_s=ROUND_S, decide_s=math.inf, show_s=60.0)
        pool = PoolHandle(self.pool, False)
        means = Runtime(connect=lambda *_: pool, clock=self.clock, sleep=self._sleep, intervals=intervals)
        proposers = {"writer": self.proposer}
        ending = run_search(self.space, self.screen, means, wanted, proposers, notes=lambda ask: "")
        return self._sum_up(ending, began_at, time.perf_counter() - began_wall)

    def _sum_up(self, ending: SearchEnding, began_at: float, wall_s: float) -> SearchFigures:
        ledger = self.space.ledger
        events = [event for event in ledger.events.list(TAG) if event.to_state == "claiming"]
        ideas_until = events[0].at if events else self.clock()
        finished = [run.state for run in ledger.runs.list(TAG) if isinstance(run.state, Finished)]
        busy_s = sum(max(0.0, min(state.finished_at, ideas_until) - state.started_at) for state in finished)
        slot_s = self.slots * (ideas_until - began_at)
        candidates = ledger.candidates.list(TAG)
        final = ledger.candidates.train_py(self.space.lineage()[-1][0])
        return SearchFigures(
            median_s=self.median_s,
            utilisation=busy_s / slot_s,
            runs=len(finished),
            runs_per_slot_hour=3600 * sum(state.finished_at <= ideas_until for state in finished) / slot_s,
            promotions=len(ledger.decisions.promotions(TAG)),
            unions=sum(candidate.origin.merged for candidate in candidates),
            true_gain=FIRST_BPB - self.programs.true_bpb(final),
            ending=ending,
            wall_s=wall_s,
        )

    def _outcome(self, order: RunOrder) -> Outcome:
        lot = random.Random(f"{self.seed} {order.key} {order.seed}")
        after_s = RUN_S * lot.uniform(0.98, 1.02)
        self.ends.append(self.clock() + after_s)
        val_bpb = self.programs.true_bpb(order.train_py) + lot.gauss(0, SIGMA)
        digests = {"cache": order.cache_digest, "train_py": order.train_sha256}
        raw = {"format": 1, "status": "ok", "reason": "", "val_bpb": val_bpb, "seed": order.seed, "digests": digests}
        return Finishes(json.dumps(raw), after_s)

    def _sleep(self, seconds: float) -> None:
        """Nothing happens before the next run ends or the next idea is written: go there at once."""
        now = self.clock()
        self.ends = [end for end in self.ends if end > now]
        events = [*self.ends, *(at for at, _ in self.proposer.writing if at > now)]
        self.clock.advance(max(seconds, min(events, default=now) - now + ROUND_S / 2))

    def _lab(self, folder: Path) -> Workspace:
        paths, repo = LabPaths(folder), Commits(folder)
        ledger = Ledger.open(paths.ledger, self.clock, durable=False)
        gates = PRESETS["default"]
        lab = Lab(TAG, "lab-search", "search", "simulated", "d", "{}", "cache-1", "cpu", SIGMA, gates, self.clock())
        ledger.labs.create(lab)
        space = Workspace(repo, paths, ledger, lab)  # type: ignore[arg-type]
        source = self.programs.first()
        commit = repo.commit_train_py("", source, "baseline", {})
        new = NewCandidate(
            read_source(source), "baseline", commit, None, "baseline", "simulation", RunKind.BASELINE,
            gates.first_baseline_runs, CandidateState.BASELINE, Origin.BASELINE,
        )  # fmt: skip
        ledger.candidates.add(TAG, new)
        return space


def simulate(hours: float, **settings: Any) -> SearchFigures:
    with tempfile.TemporaryDirectory() as folder:
        simulation = SearchSimulation(Path(folder), **settings)
        try:
            return simulation.play(hours)
        finally:
            simulation.space.ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--medians", default="60,180,300", help="seconds an idea takes to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    played = []
    for median in map(float, args.medians.split(",")):
        one = simulate(args.hours, slots=args.slots, workers=args.workers, median_s=median, seed=args.seed)
        played.append(one)
        print(
            f"ideas in {median:4.0f} s: slots {one.utilisation:6.1%} busy, {one.runs_per_slot_hour:5.2f} runs per"
            f" slot-hour (ceiling {CEILING:.2f}), {one.runs} runs, {one.promotions} promotions,"
            f" {one.unions} unions and ports, true gain {one.true_gain:.4f} bpb; simulated in {one.wall_s:.1f} s",
            file=sys.stderr if args.json else sys.stdout,
        )
    if args.json:
        print(json.dumps([{k: v for k, v in vars(one).items() if k != "ending"} for one in played], indent=2))


if __name__ == "__main__":
    main()
