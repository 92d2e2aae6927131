"""One cell of the comparison: a world, a noise, a number of slots; every rule plays the same nights in it.

Gives means with their standard errors, and differences paired by night. Prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from itertools import starmap

import numpy as np

from benchmarks.simulation.engine import Night, Outcome
from benchmarks.simulation.worlds import Setting, World
from scheduler.domain.decision import PRESETS

SLOT_UNITS = 800  # runs of plain length that a night has room for, over all slots
GREEDY, ROUNDS = "greedy", "greedy, rounds"


@dataclass(frozen=True)
class Rule:
    """A preset, asynchronous or in rounds; `claim_runs` fresh runs of both baselines come out of the night's budget."""

    name: str
    preset: str
    rounds: bool = False
    claim_runs: int = 4


RULES = {
    rule.name: rule
    for rule in (
        Rule("default", "default"),
        Rule("bold", "bold"),
        Rule("strict", "strict"),
        Rule(GREEDY, "greedy", claim_runs=0),
        Rule(ROUNDS, "greedy", rounds=True, claim_runs=0),
    )
}


@dataclass(frozen=True)
class Cell:
    world: str
    sigma: float
    slots: int


@dataclass(frozen=True)
class Row:
    """Means over nights; `_se` their standard errors. bpb, counts per night, shares from 0 to 1.

    `over_claim` is the running total of the baselines' own runs minus the truth; `claim_error` the same for the claim
    from fresh runs; `covered` the share of nights whose claim's interval holds the true difference, `covers_zero` those
    whose interval holds zero.
    """

    rule: str
    gain: float
    gain_se: float
    against_greedy: float
    against_greedy_se: float
    promotions: float
    false: float
    false_share: float
    over_claim: float
    over_claim_se: float
    claim_error: float
    covered: float
    covers_zero: float
    nights_with_promotion: float
    repeats: float
    unions: float
    unions_promoted: float
    runs: float

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def play(cell: Cell, rule: Rule, seed: int) -> Outcome:
    world = World(Setting(cell.world, cell.sigma), seed, 2 * SLOT_UNITS)
    night = Night(
        world,
        PRESETS[rule.preset],
        slots=cell.slots,
        budget=SLOT_UNITS,
        rounds=rule.rounds,
        claim_runs=rule.claim_runs,
    )
    return night.play()


def compare(cell: Cell, rules: Iterable[Rule], seeds: Sequence[int], pool: Executor) -> list[Row]:
    """All rules on the same nights; differences are to GREEDY, which has to be among them."""
    outcomes = {rule.name: _play_all(cell, rule, seeds, pool) for rule in rules}
    greedy = np.array([night.gain for night in outcomes[GREEDY]])
    return list(starmap(lambda name, nights: _row(name, nights, greedy), outcomes.items()))


def _play_all(cell: Cell, rule: Rule, seeds: Sequence[int], pool: Executor) -> list[Outcome]:
    chunk = max(1, len(seeds) // 40)
    return list(pool.map(play, [cell] * len(seeds), [rule] * len(seeds), seeds, chunksize=chunk))


def _row(name: str, nights: Sequence[Outcome], greedy: np.ndarray) -> Row:
    gains = np.array([night.gain for night in nights])
    over = np.array([night.claimed - night.gain for night in nights])
    promotions = _mean(nights, lambda night: night.tally.promotions)
    false = _mean(nights, lambda night: night.tally.false)
    return Row(
        rule=name,
        gain=float(gains.mean()),
        gain_se=_error(gains),
        against_greedy=float((gains - greedy).mean()),
        against_greedy_se=_error(gains - greedy),
        promotions=promotions,
        false=false,
        false_share=false / promotions if promotions else 0.0,
        over_claim=float(over.mean()),
        over_claim_se=_error(over),
        claim_error=_mean(nights, lambda night: -night.claim.diff - night.gain if night.claim.first_scores else 0.0),
        covered=_mean(nights, lambda night: night.claim.low <= -night.gain <= night.claim.high),
        covers_zero=_mean(nights, lambda night: not night.claim.excludes_zero),
        nights_with_promotion=_mean(nights, lambda night: night.tally.promotions > 0),
        repeats=_mean(nights, lambda night: night.tally.repeats),
        unions=_mean(nights, lambda night: night.tally.unions),
        unions_promoted=_mean(nights, lambda night: night.tally.unions_promoted),
        runs=_mean(nights, lambda n: n.tally.new + n.tally.repeats + n.tally.baselines + n.tally.unions),
    )


def _mean(nights: Sequence[Outcome], of: Callable[[Outcome], float]) -> float:
    return float(np.mean([float(of(night)) for night in nights]))


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
