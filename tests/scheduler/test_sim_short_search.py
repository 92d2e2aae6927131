"""The simulation of short searches: what it counts is what was played, and a wrong setting is named."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.sim_short_search import GAINS, FewGains, play
from benchmarks.simulation.drift import DriftSetting
from scheduler.domain.decision import PRESETS

ROOT = Path(__file__).parents[2]
STEADY = DriftSetting()


@pytest.mark.parametrize("gains", [0, len(GAINS)])
def test_every_search_has_its_gains_among_ideas_of_nothing(gains: int) -> None:
    for seed in range(20):
        world = FewGains(STEADY, seed, 24, gains)
        effects = [idea[0] for idea in iter(partial(world.next_idea, 0.0), None)]
        assert len(effects) == 24 and sorted(-effect for effect in effects if effect) == sorted(GAINS[:gains])


def test_a_bar_that_nothing_passes_finds_nothing_and_one_that_all_pass_promotes_what_is_none() -> None:
    never = replace(PRESETS["default"], promote_now=1.1, promote=1.1, drift_promote=1.1, unsteady_promote=1.1)
    assert play(STEADY, never, 24, 4, 0).found == 0.0
    assert play(STEADY, PRESETS["greedy"], 24, 0, 0).false > 0


def test_gains_far_above_the_noise_are_found_on_a_steady_machine() -> None:
    played = [play(STEADY, PRESETS["default"], 24, 4, seed) for seed in range(12)]
    assert sum(one.found > 0.99 for one in played) >= 8


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/sim_short_search.py", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_table_has_a_row_for_each_machine_and_setting() -> None:
    done = _run("--searches", "2", "--ideas", "5", "--jobs", "1", "--against", "drift_runs=0")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|") and "%" in line]
    assert len(rows) == 2 * 5 * 2 and sum("| drift_runs=0 |" in row for row in rows) == 10


@pytest.mark.parametrize(("words", "said"), [
    (("--against", "drift_run=0"), "--against drift_run=0: give one of"),
    (("--against", "drift_runs=many"), "as in drift_runs=0"),
    (("--ideas", "3"), "--ideas has to be 4 or more"),
])  # fmt: skip
def test_what_can_not_be_played_is_said(words: tuple[str, ...], said: str) -> None:
    done = _run(*words)
    assert done.returncode and said in done.stderr and "Traceback" not in done.stderr
