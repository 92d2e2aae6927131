"""A lab for the tests of the app: a real repository, a real ledger, a pool in memory on a virtual clock.

A candidate's train.py says what will come of it: `SCORE = 1.9` (plus or minus a thousandth), or `STATUS = "crash"`.
"""

from __future__ import annotations

import ast
import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from scheduler.actions.candidate import new_worktree
from scheduler.actions.submit import Submission, SubmitRequest, submit
from scheduler.domain.candidate import Candidate, CandidateState, NewCandidate, Origin
from scheduler.domain.lab import Lab
from scheduler.domain.run import Finished, RunKind
from scheduler.domain.slot import RunOrder, Slot
from scheduler.git import Repo
from scheduler.lab import LabPaths, Live, Workspace, show_runs
from scheduler.ledger import Ledger
from scheduler.policy.source import read_source
from scheduler.queue.runner import run_queue
from scheduler.queue.runtime import PollIntervals, PoolHandle, Runtime, StopReason, Timeouts
from tests.scheduler.git_kit import make_repository
from tests.scheduler.ledger_kit import make_lab
from tests.scheduler.memory_pool import Finishes, Hangs, MemoryPool, Outcome, Vanishes, VirtualClock

BASELINE = "SCORE = 1.9\n"
RUN_S = 20.0


class RecordingScreen:
    """Keeps what a person would have read."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shown: list[Live] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def show(self, live: Live) -> None:
        self.shown.append(live)

    def said(self, words: str) -> list[str]:
        return [line for line in self.lines if words in line]


def constants(order: RunOrder) -> dict[str, object]:
    tree = ast.parse(order.train_py)
    return {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]


def as_the_source_says(order: RunOrder) -> Outcome:
    """What a judge would find."""
    said = constants(order)
    if said.get("HANG"):
        return Hangs()
    if "DIES" in said:
        return Vanishes(str(said["DIES"]), RUN_S)
    status = str(said.get("STATUS", "ok"))
    score = said.get("SCORE")
    jitter = (order.seed % 3 - 1) * 0.001 + order.seed * 1e-8  # no two runs are clones
    val_bpb = None if score is None or not status.startswith(("ok", "suspect")) else float(str(score)) + jitter
    digests = {"cache": order.cache_digest, "train_py": order.train_sha256}
    raw = {"format": 1, "status": status, "reason": "", "val_bpb": val_bpb, "seed": order.seed, "digests": digests}
    return Finishes(json.dumps(raw), RUN_S, log=f"log of {order.key}\n")


def make_space(folder: Path, clock: Callable[[], float], lab: Lab | None = None, baseline: str = BASELINE) -> Workspace:
    """A lab as `arsched init` leaves it: three runs of the baseline are queued."""
    copied = isinstance(clock, VirtualClock)
    root = copy_lab(folder, clock(), lab, baseline) if copied else make_repository(folder / "lab")
    repo, paths = Repo.open(root), LabPaths(root)
    ledger = Ledger.open(paths.ledger, clock, durable=False)
    lab = lab or make_lab()
    if copied:
        return Workspace(repo, paths, ledger, lab)
    ledger.labs.create(lab)
    commit = repo.commit_train_py(repo.head_commit(), baseline.encode(), "baseline", {})
    add(ledger, lab.tag, "baseline", commit, baseline)
    repo.create_branch(lab.branch, commit)
    show_runs(paths)
    return Workspace(repo, paths, ledger, lab)


@cache
def lab_template(now: float, lab: Lab | None, baseline: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="arsched-lab-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_space(folder, lambda: now, lab, baseline).ledger.close()
    return folder / "lab"


def copy_lab(folder: Path, now: float, lab: Lab | None, baseline: str) -> Path:
    """A quarter of the cost of making one; for virtual clocks, which all begin at the same time."""
    return shutil.copytree(lab_template(now, lab, baseline), folder / "lab", symlinks=True)


def add(ledger: Ledger, tag: str, name: str, commit: str, source: str) -> Candidate:
    first = name == "baseline"
    new = NewCandidate(
        read_source(source.encode()),
        name,
        commit,
        None if first else "c0001",
        title=name,
        author="a test",
        kind=RunKind.BASELINE if first else RunKind.NEW,
        runs=3 if first else 1,
        state=CandidateState.BASELINE if first else CandidateState.OPEN,
        origin=Origin.BASELINE if first else Origin.SUBMITTED,
    )
    return ledger.candidates.add(tag, new)


class PlayedLab:
    """One lab, one pool, one clock: candidates go in, the queue is run, the ledger is looked at."""

    def __init__(
        self,
        folder: Path,
        slots: int | Sequence[Slot] = 2,
        outcome: object = as_the_source_says,
        baseline: str = BASELINE,
    ) -> None:
        self.folder = folder
        self.clock = VirtualClock(1000.0)
        self.pool = MemoryPool(slots, outcome, self.clock)  # type: ignore[arg-type]
        self.space = make_space(folder, self.clock, baseline=baseline)
        self.screen = RecordingScreen()
        self.outlives_us = False
        self.connected = 0
        self.each_round: Callable[[], None] = lambda: None

    @property
    def means(self) -> Runtime:
        intervals, timeouts = PollIntervals(round_s=1.0, show_s=15.0), Timeouts(lease_s=60.0, unknown_s=5.0)
        return Runtime(
            connect=self._connect, clock=self.clock, wall=self.clock, sleep=self._sleep, intervals=intervals,
            timeouts=timeouts,
        )  # fmt: skip

    def submit(self, name: str, source: str, **more: object) -> Submission:
        path = self.folder / f"{name}.py"
        path.write_text(source)
        return submit(self.space, replace(SubmitRequest((path,)), **more))  # type: ignore[arg-type]

    def run(self) -> StopReason:
        return run_queue(self.space, self.screen, self.means, settled=lambda: False)

    def state(self, ref: str) -> CandidateState:
        return self.candidate(ref).state

    def finished(self) -> list[Finished]:
        """The finished runs' states, in the order of their queueing."""
        return [run.state for run in self.space.ledger.runs.list(self.space.tag) if isinstance(run.state, Finished)]

    def candidate(self, ref: str) -> Candidate:
        return self.space.ledger.candidates.get(ref, self.space.tag)

    def _connect(self, lab: object, options: object, say: object) -> PoolHandle:
        self.connected += 1
        self.pool.closed = False
        return PoolHandle(self.pool, self.outlives_us)

    def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        assert self.clock() < 100_000, "the search never ends"
        self.each_round()


def send(played: PlayedLab, *paths: Path, **more: object) -> Submission:
    return submit(played.space, SubmitRequest(paths, **more))  # type: ignore[arg-type]


def worktree(played: PlayedLab, name: str, source: str | None = None) -> Path:
    path = new_worktree(played.space, name).path
    if source is not None:
        (path / "train.py").write_text(source)
    return path
