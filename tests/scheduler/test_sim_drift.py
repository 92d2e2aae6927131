"""Worlds whose machine drifts: the occasions that the engine gives every run, and what each kind of drift adds."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulation.claim import claim_runs
from benchmarks.simulation.comparison import BEFORE, FIGURES, SHIPPED, Cell, Row
from benchmarks.simulation.drift import KINDS, Drift, DriftSetting
from benchmarks.simulation.drift_promises import check_drift_promises
from benchmarks.simulation.engine import RUN_S, Simulation
from benchmarks.simulation.worlds import DrawnWorld, Setting
from scheduler.domain.decision import PRESETS
from scheduler.domain.run import Running
from tests.scheduler.policy_kit import simulate, some_ideas

ROOT = Path(__file__).parents[2]
TIMES = np.linspace(0, 100, 2001)


def added(kind: str, size: float, seed: int, slot_id: str = "sim/slot0", slots: int = 8) -> np.ndarray:
    drift = Drift(DriftSetting(kind, size), seed, 100.0, slots)
    return np.array([drift.in_sigma(at, slot_id) for at in TIMES])


@pytest.mark.parametrize("slots", [1, 3])
def test_every_score_has_its_occasion_and_no_slot_two_runs_at_a_time(slots: int) -> None:
    played = simulate(some_ideas(3), slots, slots)
    for stats in played.lab.standings:
        assert len(stats.occasions) == stats.n and not stats.running_since
        # A seed that failed is not tried again while others were had no more often.
        seeds, most = len({occasion.seed for occasion in stats.occasions}), played.gates.max_runs
        assert min(stats.n, most - stats.failed_runs) <= seeds <= min(stats.n, most + played.gates.drift_runs)
        assert all(1 <= occasion.seed <= stats.n + stats.failed_runs for occasion in stats.occasions)
    for placing in played.placings:
        held = [run.state.slot_id for run in placing.running if isinstance(run.state, Running)]
        assert len(set(held)) == len(held) <= slots
        since = sum((stats.running_since for stats in placing.lab.standings), ())
        assert len(since) == len(placing.running)
    at = sorted((o.slot_id, o.at) for stats in played.lab.standings for o in stats.occasions)
    apart = [b[1] - a[1] for a, b in pairwise(at) if a[0] == b[0]]
    assert min(apart) > 0.7 * RUN_S  # two runs on one slot, middle to middle


def test_a_blind_simulation_knows_no_occasion() -> None:
    world = DrawnWorld(Setting("pr44", 0.001), 1, 400)
    played = Simulation(world, PRESETS["default"], 4, 128, blind=True).play()
    assert not any(stats.occasions for stats in played.lab.standings)
    assert any(stats.n for stats in played.lab.standings)


def test_a_claim_measures_both_with_common_seeds_alternately_on_the_same_slots() -> None:
    runs = list(claim_runs(("c0001", "c0009"), 4, [f"sim/slot{k}" for k in range(8)]))
    seeds = {ref: sorted(run.seed for _, run, _ in runs if run.candidate_id == ref) for ref in ("c0001", "c0009")}
    assert seeds["c0001"] == seeds["c0009"] and len(set(seeds["c0001"])) == 4
    slots = {slot_id for *_, slot_id in runs}
    for slot_id in slots:
        assert {run.candidate_id for _, run, where in runs if where == slot_id} == {"c0001", "c0009"}
    assert len(slots) == 4 and {start for start, *_ in runs} == {0.0, 1.0}


def test_the_size_of_a_drift_is_what_it_says() -> None:
    for seed in range(5):
        assert added("walk", 3.0, seed).std() == pytest.approx(3.0, rel=0.02)
        assert added("wave", 3.0, seed).max() == pytest.approx(3.0, rel=0.01) == -added("wave", 3.0, seed).min()
        assert set(added("step", 3.0, seed)) == {0.0, 3.0}
        worse = [added("slot", 3.0, seed, f"sim/slot{k}", 4) for k in range(4)]
        assert sorted(set(each).pop() for each in worse) == [0.0, 0.0, 0.0, 3.0]


@pytest.mark.parametrize("kind", KINDS)
def test_drift_of_size_zero_adds_nothing(kind: str) -> None:
    assert not added(kind, 0.0, 1).any()


def test_a_seed_adds_the_same_to_every_program_and_speed_shows_its_share() -> None:
    setting = Setting("pr44", 0.0, drift=DriftSetting("walk", 3.0, shown=0.5), seed_sd=2.0)
    world = DrawnWorld(setting, 1, 10)
    assert world.speed(0.0, "sim/slot0") == pytest.approx(1 - 0.005 * world.drift.in_sigma(0.0, "sim/slot0"))
    assert DrawnWorld(Setting("pr44", 0.001), 1, 10).speed(0.0, "sim/slot0") is None


# promises


def table(drift: DriftSetting, **ours: float) -> dict[Cell, dict[str, Row]]:
    """A cell in which every promise is kept, but for what is given of the shipped rule, next to one without drift.

    Errors are 0.1.
    """
    even = dict.fromkeys(FIGURES, 1.0) | {"against": 0.0}
    error = dict.fromkeys(even, 0.1)
    steady = {Cell("pr44", 0.001, 8): {SHIPPED: Row(even, error), BEFORE: Row(even, error)}}
    cell = Cell("pr44", 0.001, 8, drift)
    return steady | {cell: {SHIPPED: Row(even | ours, error), BEFORE: Row(even, error)}}


@pytest.mark.parametrize(
    ("drift", "broken"),
    [
        (DriftSetting(), {"gain": 0.989}),
        (DriftSetting("walk", 3.0), {"judged_covered": 0.92}),
        (DriftSetting("slot", 3.0), {"covered": 0.92}),
        (DriftSetting("step", 3.0), {"false": 1.01}),
    ],
)
def test_every_promise_about_drift_can_be_broken(drift: DriftSetting, broken: dict[str, float]) -> None:
    assert all(promise.kept for promise in check_drift_promises(table(drift)))
    assert [promise.kept for promise in check_drift_promises(table(drift, **broken))].count(False) == 1


def test_the_command_prints_cells_and_verdicts(tmp_path: Path) -> None:
    few = ["--searches", "1", "--slots", "2", "--kinds", "none", "walk", "--sizes", "3", "--jobs", "1"]
    few += ["--rules", "default", "no drift known"]
    command = [sys.executable, "benchmarks/sim_drift.py", *few, "--json", str(tmp_path / "sim.json")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "**pr44 N=2 σ=0.001, prior 0.001 walk 3 σ**" in ran.stdout and "| default |" in ran.stdout
    assert "at most as many false promotions as without drift" in ran.stdout and (tmp_path / "sim.json").exists()
