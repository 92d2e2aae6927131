"""Short searches in simulation, like bench_busy_search's: few ideas on two slots, some of which matter, none else does.

    python benchmarks/sim_short_search.py                           400 searches on each machine (a minute and a half)
    python benchmarks/sim_short_search.py --against drift_runs=0    and with another setting of the gates

Noise, what a seed does and sizes of gains are the `cpu` contract's; a machine's drift is simulation/drift.py's.
Found: share of what the gains are worth, and of searches that found all. False: promotions of what changes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path
from statistics import fmean

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices in several processes: threads only wait
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.simulation.drift import DriftSetting
from benchmarks.simulation.engine import Simulation
from benchmarks.simulation.worlds import DrawnWorld, Setting
from scheduler.domain.decision import PRESETS, GateSettings

SLOTS, SPAN = 2, 28.0  # plain runs that a search takes about, one after the other: over them the machine drifts
SIGMA, SEED_SD = 0.006, 2.0  # bpb of runs of one seed, and in σ between seeds
GAINS = (0.03, 0.04, 0.05, 0.06)  # bpb
MACHINES = (("none", 0.0), ("wave", 1.5), ("wave", 3.0), ("step", 3.0), ("walk", 2.0))
SAME = 1e-12


class FewGains(DrawnWorld):
    """`ideas` of which so many are worth one of GAINS each, in places drawn by the seed; patches keep what they are."""

    def __init__(self, drift: DriftSetting, seed: int, ideas: int, gains: int) -> None:
        setting = Setting("null", SIGMA, crash=0.0, slow=0.0, seed_sd=SEED_SD, jitter=0.05, drift=drift)
        super().__init__(setting, seed, ideas, SPAN, SLOTS)
        lots = random.Random(seed)
        places = sorted(lots.sample(range(ideas), gains))
        self.worth = dict(zip(places, lots.sample(GAINS, gains), strict=True))
        self._ideas = ideas

    def next_idea(self, gained: float) -> tuple[float, int] | None:
        number, self._asked = self._asked, self._asked + 1
        return (-self.worth.get(number, 0.0), 0) if number < self._ideas else None

    def ported_effect(self, effects: Sequence[float], moved: Sequence[float]) -> float:
        return sum(effects)


@dataclass(frozen=True)
class Played:
    found: float  # share
    false: int
    runs: int


def play(drift: DriftSetting, gates: GateSettings, ideas: int, gains: int, seed: int) -> Played:
    world = FewGains(drift, seed, ideas, gains)
    played = Simulation(world, gates, SLOTS, prior_bpb=SIGMA, prior_seed_bpb=SEED_SD * SIGMA).play()
    worth, false = sum(world.worth.values()), 0
    for old, new in pairwise(played.lineage):
        false += played.truth[new] >= played.truth[old] - SAME
    return Played(-played.truth[played.lineage[-1]] / worth if worth else 1.0, false, played.outcome().runs.total())


def main() -> int:
    asked = _parse()
    variants = {"default": PRESETS["default"]}
    if asked.against:
        variants[asked.against] = _with(PRESETS["default"], asked.against)
    seeds = range(asked.first, asked.first + asked.searches)
    with ProcessPoolExecutor(asked.jobs) as pool:
        for gains in (len(GAINS), 0):
            print(f"\n**{asked.ideas} ideas, {gains} of them gains**, {asked.searches} searches\n")
            print("| machine | rule | found | all found | false | runs |\n|---|---|---|---|---|---|")
            for kind, size in MACHINES:
                for name, gates in variants.items():
                    about = (repeat(DriftSetting(kind, size)), repeat(gates), repeat(asked.ideas), repeat(gains))
                    rows = list(pool.map(play, *about, seeds, chunksize=4))
                    print(_line(f"{kind} {size:g} σ" if size else "steady", name, rows), flush=True)
    return 0


def _line(machine: str, name: str, rows: Sequence[Played]) -> str:
    whole = fmean(row.found > 1 - 1e-9 for row in rows)
    figures = (f"{fmean(row.found for row in rows):.1%}", f"{whole:.0%}", f"{fmean(row.false for row in rows):.3f}")
    return f"| {machine} | {name} | {' | '.join(figures)} | {fmean(row.runs for row in rows):.1f} |"


def _with(gates: GateSettings, setting: str) -> GateSettings:
    """Gates with "name=value" changed. Exits for a name that they have not, or no number."""
    name, _, value = setting.partition("=")
    kinds = {field.name: type(getattr(gates, field.name)) for field in dataclasses.fields(gates)}
    numbers = {field: kind for field, kind in kinds.items() if kind in (int, float)}
    try:
        return dataclasses.replace(gates, **{name: numbers[name](value)})
    except (KeyError, ValueError):
        sys.exit(f"--against {setting}: give one of {', '.join(numbers)} and a number, as in drift_runs=0")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--first", type=int, default=0, help="seed of the first search")
    parser.add_argument("--ideas", type=int, default=24)
    parser.add_argument("--against", default="", help="a setting of the gates, name=value")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    asked = parser.parse_args()
    if asked.ideas < len(GAINS):
        parser.error(f"--ideas has to be {len(GAINS)} or more: so many of them are gains")
    return asked


if __name__ == "__main__":
    sys.exit(main())
