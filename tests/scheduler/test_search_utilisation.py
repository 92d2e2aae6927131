"""Whole searches on a virtual clock, by the shipped code: slots are busy however long ideas take to write."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.sim_search import CEILING, RUN_S, TAG, SearchFigures, SearchSimulation
from scheduler.domain.run import Finished, RunKind
from scheduler.domain.search import SearchState
from scheduler.policy.dispatch import repeats_allowed
from tests.scheduler.ledger_kit import broken_invariants


def play(folder: Path, median_s: float, hours: float, seed: int) -> tuple[SearchSimulation, SearchFigures]:
    simulation = SearchSimulation(folder, median_s=median_s, seed=seed)
    return simulation, simulation.play(hours)


def check_the_record(simulation: SearchSimulation) -> None:
    """Every slot holds one run at a time, every candidate is decided, and repeats keep to their share.

    Those after the last idea has begun hold slots that nothing else wants.
    """
    ledger = simulation.space.ledger
    assert not broken_invariants(simulation.space.paths.ledger)
    runs = [(run, run.state) for run in ledger.runs.list(TAG) if isinstance(run.state, Finished)]
    by_slot: dict[str, list[Finished]] = {}
    for _, state in sorted(runs, key=lambda pair: pair[1].started_at):
        by_slot.setdefault(state.slot_id, []).append(state)
    for states in by_slot.values():
        assert all(before.finished_at <= later.started_at for before, later in itertools.pairwise(states))
    assert not [c for c in ledger.candidates.list(TAG) if c.state.undecided]
    last_idea = max(state.started_at for run, state in runs if run.kind is RunKind.NEW)
    repeats = [s for run, s in runs if run.kind is RunKind.REPEAT and s.started_at <= last_idea]
    at_once = max((sum(a.started_at <= b.started_at < a.finished_at for a in repeats) for b in repeats), default=0)
    assert at_once <= repeats_allowed(8, ledger.board(TAG))
    (claim,) = ledger.claims.list(TAG)
    assert len(claim.first_scores) == len(claim.final_scores) == 4 and claim.excludes_zero


def test_an_hour_keeps_the_slots_busy_and_the_record_sound(tmp_path: Path) -> None:
    simulation, search = play(tmp_path, 60.0, 1.0, seed=5)
    assert search.ending.state is SearchState.ENDED
    assert search.utilisation >= 0.95 and search.promotions
    # The claim belongs to the hours, and what has begun is decided before it: that takes up to two runs, or none.
    assert simulation.clock() - 1000.0 == pytest.approx(3600, abs=2 * RUN_S)
    check_the_record(simulation)
    lengths = [s.finished_at - s.started_at for r in simulation.space.ledger.runs.list(TAG)
               if isinstance(s := r.state, Finished)]  # fmt: skip
    assert all(0.97 * RUN_S < length < 1.03 * RUN_S for length in lengths)


@pytest.mark.slow
def test_seven_hundred_runs_leave_no_slot_idle(tmp_path: Path) -> None:
    simulation, search = play(tmp_path, 60.0, 8.0, seed=0)
    assert search.ending.state is SearchState.ENDED
    assert search.runs > 650 and search.utilisation >= 0.99
    assert search.runs_per_slot_hour >= 0.98 * CEILING
    assert search.true_gain > 0.01 and search.promotions >= 3
    # What has begun is decided before the claim: here a union that was due needs three runs, one after the other.
    assert simulation.clock() - 1000.0 == pytest.approx(8 * 3600, abs=2 * RUN_S)
    check_the_record(simulation)


@pytest.mark.slow
@pytest.mark.parametrize(("median_s", "busy"), [(180.0, 0.98), (300.0, 0.85)])
def test_slots_are_as_busy_as_slow_writers_allow(tmp_path: Path, median_s: float, busy: float) -> None:
    simulation, search = play(tmp_path, median_s, 3.0, seed=1)
    assert search.utilisation >= busy
    check_the_record(simulation)
