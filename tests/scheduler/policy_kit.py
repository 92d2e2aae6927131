"""Labs made by hand, and worlds of listed ideas for benchmarks.simulation. Shared by tests of the policy."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.simulation.engine import FIRST, PRIOR_BPB, End, Simulation
from scheduler.domain.candidate import CandidateState, CandidateStats, Occasion
from scheduler.domain.decision import PRESETS, GateSettings
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Queued, Run, RunKind

SIGMA0 = PRIOR_BPB
BASE = FIRST
RUN_S = 330.0
KEPT = 0.9  # of the sum of its parts' effects: what a merge is worth


def standing(
    number: int, *scores: float, state: CandidateState = CandidateState.OPEN, **more: object
) -> CandidateStats:
    return CandidateStats(f"c{number:04d}", f"idea-{number}", BASE, state, tuple(scores), **more)  # type: ignore[arg-type]


def baseline(*scores: float, **more: object) -> CandidateStats:
    return standing(1, *scores, state=CandidateState.BASELINE, **more)


def board(
    base: CandidateStats, *candidates: CandidateStats, first: bool = True, gates: GateSettings = PRESETS["default"]
) -> LabSnapshot:
    return LabSnapshot(base.candidate_id, first, (base, *candidates), SIGMA0, gates)


def run(number: int, kind: RunKind = RunKind.NEW, candidate: str = "c0002") -> Run:
    return Run(f"r{number:04d}", candidate, kind, number, 0, "", Queued(float(number)))


@dataclass
class ListedWorld:
    """`effects`: each idea's true score minus its own baseline's, in bpb. Shares are of runs.

    `saves`: lines of code each idea has fewer than its baseline (negative: more); lines are not counted when empty.
    Runs take about 330 s, crash early, or lose their slot. Every patch merges.
    """

    effects: Sequence[float]
    seed: int = 0
    sigma: float = SIGMA0
    crash_share: float = 0.05
    lost_share: float = 0.02
    saves: Sequence[int] = ()
    asked: int = field(default=0, init=False)
    plain: float = field(default=RUN_S, init=False)

    def __post_init__(self) -> None:
        self.first_lines = 1000 if self.saves else 0
        self._random = random.Random(self.seed)

    def next_idea(self, gained: float) -> tuple[float, int] | None:
        if self.asked == len(self.effects):
            return None
        self.asked += 1
        return self.effects[self.asked - 1], self.saves[self.asked - 1] if self.saves else 0

    def ported_effect(self, effects: Sequence[float], moved: Sequence[float]) -> float:
        return KEPT * sum(effects)

    def merges(self, patches_met: int) -> bool:
        return True

    def score(self, value: float, occasion: Occasion) -> float:
        return self._random.gauss(1.0 + value, self.sigma)

    def speed(self, at: float, slot_id: str) -> float | None:
        return None

    def ending(self, run: Run) -> tuple[float, End]:
        lots = self._random.random(), self._random.random(), self._random.uniform(0.05, 0.6)
        if lots[0] < self.crash_share and run.candidate_id != BASE:  # or a simulation might end before it began
            return RUN_S * lots[2], End.CRASHED
        if lots[1] < self.lost_share:
            return RUN_S * lots[2], End.LOST
        return RUN_S * self._random.lognormvariate(0, 0.05), End.SCORED


def some_ideas(seed: int, count: int = 60, **more: float) -> ListedWorld:
    """A tenth of them gains of one to ten times the noise, the rest near no-ops and harm."""
    rng = random.Random(seed)
    kinds = rng.choices(("gain", "nothing", "harm"), (10, 25, 65), k=count)
    effects = {
        "gain": lambda: -rng.uniform(0.5, 5) * 1e-3,
        "nothing": lambda: 0.0,
        "harm": lambda: rng.expovariate(700),
    }
    return ListedWorld([effects[kind]() for kind in kinds], seed, **more)


def simulate(
    world: ListedWorld,
    slots: int,
    backlog: int | None,
    gates: GateSettings = PRESETS["default"],
    blind: bool = False,
) -> Simulation:
    """Until nothing is left to do. `backlog`: ideas queued ahead (None: all of them); `blind`: no occasion is known."""
    return Simulation(world, gates, slots, backlog=backlog, forget=False, blind=blind).play()
