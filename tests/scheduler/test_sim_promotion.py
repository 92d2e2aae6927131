"""The simulator of nights: its bookkeeping against a greedy loop written by hand, and promises that can be broken."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.simulation.cells import GREEDY, ROUNDS, RULES, Cell, Row, play
from benchmarks.simulation.engine import Night
from benchmarks.simulation.promises import SHIPPED, judge
from benchmarks.simulation.worlds import Setting, World
from scheduler.domain.decision import PRESETS

ROOT = Path(__file__).parents[2]
CALM = Setting("pr44", 0.001, crash=0.0, slow=0.0)


class SteadyLuck(World):
    """A program's score is always the same, whoever measures it and when."""

    def score(self, value: float) -> float:
        return value + random.Random(repr((self.setting.sigma, value))).gauss(0, self.setting.sigma)


def by_hand(world: World, slots: int, waves: int) -> tuple[float, float, int]:
    """Best of N in waves of `slots` runs, the baseline's own among the first: gain, running total, promotions."""
    truth, promotions = 0.0, 0
    first = best = world.score(0.0)
    for wave in range(waves):
        ideas = [truth + world.next_effect(-truth) for _ in range(slots - (wave == 0))]
        score, value = min(((world.score(idea), idea) for idea in ideas), default=(best, truth))
        if score < best:
            best, truth, promotions = score, value, promotions + 1
    return -truth, first - best, promotions


@pytest.mark.parametrize("slots", [1, 8, 16])
@pytest.mark.parametrize("rounds", [False, True], ids=["at once", "in rounds"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_greedy_night_is_best_of_n(slots: int, rounds: bool, seed: int) -> None:
    """Where every run takes as long, waiting for the round changes nothing."""
    waves = 12 if slots > 1 else 60
    night = Night(
        SteadyLuck(CALM, seed, 400), PRESETS["greedy"], slots=slots, budget=slots * waves, rounds=rounds, claim_runs=0
    )
    found = night.play()
    gain, claimed, promotions = by_hand(SteadyLuck(CALM, seed, 400), slots, waves)
    assert promotions > 1
    assert (found.tally.promotions, found.tally.new) == (promotions, slots * waves - 1)
    assert (found.gain, found.claimed) == pytest.approx((gain, claimed))


@pytest.mark.parametrize("preset", ["default", "bold", "strict", "greedy"])
def test_a_night_spends_its_slots_and_no_more(preset: str) -> None:
    night = Night(World(CALM, 5, 400), PRESETS[preset], slots=4, budget=128, claim_runs=4)
    tally = night.play().tally
    assert tally.new + tally.repeats + tally.baselines + tally.unions == 128 - 8
    assert tally.repeats + tally.unions <= tally.new


def test_the_same_night_twice_is_the_same() -> None:
    cell = Cell("brief", 0.002, 8)
    assert play(cell, RULES[SHIPPED], 7) == play(cell, RULES[SHIPPED], 7) != play(cell, RULES[SHIPPED], 8)


def test_without_better_ideas_the_claim_stays_at_zero() -> None:
    """25 nights, fixed seeds: of 95 % intervals more than four that exclude zero have a chance of 0.7 %."""
    nights = [play(Cell("null", 0.001, 8), RULES[SHIPPED], seed) for seed in range(25)]
    assert all(night.gain <= 0 for night in nights) and any(night.tally.promotions for night in nights)
    assert sum(night.claim.excludes_zero for night in nights) <= 4


# promises


def row(rule: str, **figures: float) -> Row:
    even = dict.fromkeys((name for name in Row.__dataclass_fields__ if name != "rule"), 1.0)
    return replace(Row(rule=rule, **even), **figures)  # type: ignore[arg-type]


def table(world: str, **ours: float) -> dict[Cell, dict[str, Row]]:
    """A cell in which every promise is kept, but for what is said of ours."""
    good: dict[str, float] = {"gain": 1.05, "against_greedy": 0.0, "false": 0.5, "over_claim": 0.6, "covers_zero": 0.95}
    rows = (row(SHIPPED, **good | ours), row(GREEDY), row(ROUNDS))
    return {Cell(world, 0.001, 8): {one.rule: one for one in rows}}


@pytest.mark.parametrize(
    ("world", "broken"),
    [
        ("pr44", {"false": 0.51}),
        ("pr44", {"over_claim": 0.67}),
        ("pr44", {"against_greedy": -0.031}),
        ("pr44", {"gain": 1.049}),
        ("brief", {"false": 0.51}),
        ("null", {"covers_zero": 0.929}),
    ],
)
def test_every_promise_can_be_broken(world: str, broken: dict[str, float]) -> None:
    assert all(verdict.kept for verdict in judge(table(world)))
    assert [verdict.kept for verdict in judge(table(world, **broken))].count(False) == 1


def test_the_command_prints_cells_and_verdicts(tmp_path: Path) -> None:
    few = ["--nights", "2", "--slots", "2", "--sigma", "0.001", "--worlds", "pr44", "--jobs", "1"]
    command = [sys.executable, "benchmarks/sim_promotion.py", *few, "--json", str(tmp_path / "sim.json")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "**pr44, 2 slots, noise 0.001**" in ran.stdout and "| default |" in ran.stdout
    assert "false promotions are at most half of greedy's" in ran.stdout and (tmp_path / "sim.json").exists()
