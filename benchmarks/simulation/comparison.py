"""Variants of the promotion rule on the same simulated searches, and what the shipped one promises, held against them.

A cell is a world, a noise, a number of slots and a drift of the machine; each variant plays the same seeds in it. A
promise about a mean is kept when the mean keeps it; the standard errors are in the rows. Prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import repeat

import numpy as np

from benchmarks.simulation.drift import STEADY, DriftSetting
from benchmarks.simulation.engine import PRIOR_BPB, Simulation
from benchmarks.simulation.outcome import Outcome
from benchmarks.simulation.worlds import DrawnWorld, Setting
from scheduler.domain.decision import PRESETS, GateSettings
from scheduler.domain.run import RunKind

SLOT_UNITS = 800  # runs of plain length that a search has room for, over all slots
SHIPPED, GREEDY, ROUNDS, BEFORE = "default", "greedy", "greedy, rounds", "no drift known"


@dataclass(frozen=True)
class Variant:
    """A preset, asynchronous or in rounds; `claim_runs` fresh runs of both baselines come out of the budget.

    `blind`: every score counts as measured at one time on one machine. `changed`: settings other than the preset's.
    """

    preset: str
    rounds: bool = False
    claim_runs: int = 4
    blind: bool = False
    changed: Mapping[str, float] = field(default_factory=dict)

    @property
    def gates(self) -> GateSettings:
        return replace(PRESETS[self.preset], **self.changed)


VARIANTS = {
    SHIPPED: Variant("default"),
    "bold": Variant("bold"),
    "strict": Variant("strict"),
    "rounds": Variant("rounds"),
    GREEDY: Variant("greedy", claim_runs=0, blind=True),
    ROUNDS: Variant("greedy", rounds=True, claim_runs=0, blind=True),
    BEFORE: Variant("default", blind=True, changed={"sibling_wait": 0.0}),
    "low bars": Variant(  # and no drift known
        "default",
        blind=True,
        changed={"sibling_wait": 0.0, "promote": 0.80, "halve_after": 0, "max_baseline_runs": 4},
    ),
    **{f"waits {share:g}": Variant("default", changed={"sibling_wait": share}) for share in (0.0, 0.05, 0.1, 0.2, 0.5)},
}


@dataclass(frozen=True)
class Cell:
    world: str
    sigma: float
    slots: int
    drift: DriftSetting = STEADY
    seed_sd: float = 0.0
    jitter: float = 0.0
    prior_bpb: float = PRIOR_BPB

    def __str__(self) -> str:
        drift = f" {self.drift.kind} {self.drift.size:g} σ" if self.drift.size else ""
        prior = f", prior {self.prior_bpb:g}" if self.prior_bpb != PRIOR_BPB else ""
        return f"{self.world} N={self.slots} σ={self.sigma:g}{prior}{drift}"


# Of one search, in bpb, counts and shares from 0 to 1. `over_claim` is the running total of the baselines' own runs
# minus the truth, `claim_error` the same for the claim from fresh runs; `covered`: its interval holds the true
# difference, `covers_zero`: it holds zero.
FIGURES: dict[str, Callable[[Outcome], float]] = {
    "gain": lambda o: o.gain,
    "promotions": lambda o: o.promotions,
    "false": lambda o: o.false,
    "over_claim": lambda o: o.claimed - o.gain,
    "claim_error": lambda o: -o.claim.diff - o.gain if o.claim.first_scores else 0.0,
    "covered": lambda o: o.claim.low <= -o.gain <= o.claim.high,
    "covers_zero": lambda o: not o.claim.excludes_zero,
    "searches_with_promotion": lambda o: o.promotions > 0,
    "repeats": lambda o: o.runs[RunKind.REPEAT],
    "unions": lambda o: o.runs[RunKind.UNION],
    "unions_promoted": lambda o: o.unions_promoted,
    "baselines": lambda o: o.runs[RunKind.BASELINE],
    "displaced": lambda o: o.displaced,
    "ports": lambda o: o.ports,
    "idle": lambda o: o.idle,
    "judged": lambda o: len(o.judged),
    "judged_covered": lambda o: sum(one.covered for one in o.judged),
    "won_covered": lambda o: sum(one.covered for one in o.won),
    "runs": lambda o: o.runs.total(),
}


@dataclass(frozen=True)
class Row:
    """One variant in one cell: means of FIGURES, with their standard errors.

    `against` is what it gained more than the variant it is held against, paired by seed.
    """

    mean: Mapping[str, float]
    error: Mapping[str, float]

    def __getitem__(self, figure: str) -> float:
        return self.mean[figure]

    @property
    def false_share(self) -> float:
        return self.share("false", "promotions")

    def share(self, part: str, whole: str) -> float:
        """Of two counts over all searches; 0 where there was nothing."""
        return self[part] / self[whole] if self[whole] else 0.0


Table = Mapping[Cell, Mapping[str, Row]]  # cell -> name of the variant -> row


def play(cell: Cell, variant: Variant, seed: int) -> Outcome:
    setting = Setting(cell.world, cell.sigma, drift=cell.drift, seed_sd=cell.seed_sd, jitter=cell.jitter)
    world = DrawnWorld(setting, seed, 2 * SLOT_UNITS, SLOT_UNITS / cell.slots, cell.slots)
    room, claims = (cell.slots, SLOT_UNITS, variant.rounds), variant.claim_runs
    stated = {"blind": variant.blind, "prior_bpb": cell.prior_bpb}
    return Simulation(world, variant.gates, *room, claim_runs=claims, **stated).play().outcome()


def compare(
    cell: Cell, variants: Iterable[str], seeds: Sequence[int], pool: Executor, against: str = GREEDY
) -> dict[str, Row]:
    """All VARIANTS of these names on the same seeds; `against`, to which differences are, has to be among them."""
    chunk, cells = max(1, len(seeds) // 40), repeat(cell)
    outcomes = {v: list(pool.map(play, cells, repeat(VARIANTS[v]), seeds, chunksize=chunk)) for v in variants}
    reference = np.array([one.gain for one in outcomes[against]])
    return {name: _row(played, reference) for name, played in outcomes.items()}


def _row(outcomes: Sequence[Outcome], reference: np.ndarray) -> Row:
    values = {name: np.array([float(of(one)) for one in outcomes]) for name, of in FIGURES.items()}
    values["against"] = values["gain"] - reference
    return Row(
        {name: float(each.mean()) for name, each in values.items()},
        {name: float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan
         for name, each in values.items()},
    )  # fmt: skip


@dataclass(frozen=True)
class Promise:
    """`cells` is one line per cell looked at, those that break the promise first."""

    text: str
    kept: bool
    cells: tuple[str, ...]

    def __str__(self) -> str:
        return "\n      ".join((f"{'PASS' if self.kept else 'FAIL'}  {self.text}", *self.cells))


def promises_of(found: Mapping[str, Iterable[tuple[bool, str]]]) -> list[Promise]:
    """Text -> what was found in each cell; promises without a cell to look at are left out."""
    lines = {text: sorted(findings) for text, findings in found.items()}
    return [
        Promise(text, all(kept for kept, _ in cells), tuple(line for _, line in cells))
        for text, cells in lines.items()
        if cells
    ]


def check_promises(table: Table) -> list[Promise]:
    """Promises without a cell to look at are left out."""
    gainful = {cell: rows for cell, rows in table.items() if cell.world != "null"}
    found = {
        "false promotions are at most half of greedy's": _false(gainful),
        "the running total over-claims at most two thirds of what greedy's does": _over_claim(gainful),
        "published search, 8 and 16 slots: true gain within 3 % of asynchronous greedy": _gain(gainful),
        "noise 0.001, 8 and 16 slots: at least 5 % more than greedy in rounds": _rounds(gainful),
        "no idea is better: the claim's interval covers zero in at least 93 % of searches": _null(table),
    }
    return promises_of(found)


def _false(table: Table) -> Iterator[tuple[bool, str]]:
    for cell, rows in table.items():
        ours, theirs = rows[SHIPPED], rows[GREEDY]
        shares = f"({ours.false_share:.0%}, {theirs.false_share:.0%})"
        line = f"{cell}: {ours['false']:.2f} against {theirs['false']:.2f} a search {shares}"
        yield ours["false"] <= theirs["false"] / 2, line


def _over_claim(table: Table) -> Iterator[tuple[bool, str]]:
    for cell, rows in table.items():
        ours, theirs = rows[SHIPPED]["over_claim"], rows[GREEDY]["over_claim"]
        yield ours <= theirs * 2 / 3, f"{cell}: {1e3 * ours:.2f} against {1e3 * theirs:.2f} mbpb"


def _gain(table: Table) -> Iterator[tuple[bool, str]]:
    for cell, rows in table.items():
        if cell.world == "pr44" and cell.slots in (8, 16):
            ours, greedy = rows[SHIPPED], rows[GREEDY]["gain"]
            more, error = ours["against"] / greedy, ours.error["against"] / greedy
            yield more >= -0.03, f"{cell}: {more:+.1%} ± {error:.1%}"


def _rounds(table: Table) -> Iterator[tuple[bool, str]]:
    for cell, rows in table.items():
        if cell.sigma == 0.001 and cell.slots in (8, 16) and ROUNDS in rows:
            more = rows[SHIPPED]["gain"] / rows[ROUNDS]["gain"] - 1
            yield more >= 0.05, f"{cell}: {more:+.1%}"


def _null(table: Table) -> Iterator[tuple[bool, str]]:
    for cell, rows in table.items():
        if cell.world == "null":
            covers, some = rows[SHIPPED]["covers_zero"], rows[SHIPPED]["searches_with_promotion"]
            yield covers >= 0.93, f"{cell}: {covers:.1%} of searches ({some:.0%} have a promotion)"
