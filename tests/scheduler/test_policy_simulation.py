"""Whole searches through decide() and order_runs(): no slot idles, no idea is forgotten, none runs more than it may."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.simulation.engine import Simulation
from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import PRESETS, Combine, Discard, Promote, Shelve
from scheduler.domain.run import RunKind
from scheduler.policy.decide import is_holding
from scheduler.policy.dispatch import repeats_allowed
from scheduler.policy.gates import MAX_FAILED
from tests.scheduler.policy_kit import RUN_S, ListedWorld, simulate, some_ideas

CASES = [(seed, slots, backlog) for seed, slots in enumerate([1, 2, 3, 8, 16] * 2) for backlog in (None, slots)]


@pytest.fixture(params=CASES, ids=lambda p: f"{p[1]}slots-{'batch' if p[2] is None else 'pull'}-{p[0]}", scope="module")
def played(request: pytest.FixtureRequest) -> Simulation:
    seed, slots, backlog = request.param
    return simulate(some_ideas(seed), slots, backlog)


def test_no_slot_idles_while_something_is_queued_but_for_a_promotion_that_waits(played: Simulation) -> None:
    for placing in played.placings:
        assert not placing.queued or len(placing.running) == played.slots or is_holding(placing.lab)


def test_while_ideas_last_every_slot_is_busy_all_the_time(played: Simulation) -> None:
    exhausted = next(m.at for m in played.placings if not any(r.kind is RunKind.NEW for r in m.queued))
    full = [placing for placing in played.placings if placing.at < exhausted]
    assert full and all(len(placing.running) == played.slots or is_holding(placing.lab) for placing in full)
    last = max(m.at for m in played.placings if any(r.kind is RunKind.NEW for r in m.started))
    united = sum(isinstance(step.decision, Combine) and step.at >= last for step in played.log)
    most_runs = played.gates.max_runs + played.gates.drift_runs
    assert played.now - last < (1 + united) * most_runs * RUN_S  # unions and their halves, one after the other


def test_every_candidate_ends_decided_and_none_twice(played: Simulation) -> None:
    assert sum(step.kind == "idea" for step in played.log) == 60
    assert not played.lab.undecided
    assert played.lab.in_state(CandidateState.BASELINE) == (played.lab.baseline,)
    closed = Counter(d.candidate_id for d in played.decisions if isinstance(d, Promote | Discard | Shelve))
    united = {part for d in played.decisions if isinstance(d, Combine) for part in d.parts}
    assert set(closed.values()) <= {1} and len(closed.keys() | united) == len(played.lab.standings) - 1


def test_no_one_runs_more_than_the_rule_allows(played: Simulation) -> None:
    for standing in played.lab.standings:
        first = standing.candidate_id == "c0001"
        # The result of a late one is recorded; a baseline that lasts is measured more often.
        more = standing.state is CandidateState.SHELVED
        in_force = standing.state in (CandidateState.BASELINE, CandidateState.PROMOTED)
        most = played.gates.max_runs + played.gates.drift_runs
        allowed = max(most, played.gates.max_baseline_runs * in_force)
        assert standing.n <= allowed + more
        assert standing.failed_runs <= (played.gates.max_runs if first else MAX_FAILED)
        assert standing.pending_runs == 0


def test_every_baseline_was_measured_as_often_as_promised(played: Simulation) -> None:
    gates, last = played.gates, played.lab.baseline
    assert gates.first_baseline_runs <= played.lab.of("c0001").n <= gates.max_baseline_runs
    wanted = min(gates.max_baseline_runs, gates.baseline_runs + played.lab.trials_on_baseline // gates.baseline_every)
    assert last.n >= wanted


def test_repeats_pass_waiting_ideas_only_within_their_share(played: Simulation) -> None:
    allowed = repeats_allowed(played.slots, played.lab)
    for placing in played.placings:
        repeats = sum(run.kind in (RunKind.REPEAT, RunKind.UNION) for run in placing.running)
        started = any(run.kind in (RunKind.REPEAT, RunKind.UNION) for run in placing.started)
        waiting = any(run.kind is RunKind.NEW for run in placing.queued)
        assert repeats <= allowed or not (started and waiting)


def test_no_idea_starts_while_the_baseline_waits_for_a_run(played: Simulation) -> None:
    for placing in played.placings:
        current = [run for run in placing.queued if run.candidate_id == placing.lab.baseline_id]
        assert not (current and any(run.kind is RunKind.NEW for run in placing.started))


def test_a_decision_falls_on_the_result_it_is_taken_from(played: Simulation) -> None:
    """At the same instant as some run ended, or where a promotion has waited for its siblings: what it leaves too."""
    results = {step.at for step in played.log if step.kind == "result"} | {0.0}
    late = [step for step in played.log if step.kind == "decision" and step.decision and step.at not in results]
    promoted = {step.at for step in late if isinstance(step.decision, Promote)}
    assert {step.at for step in late} <= promoted


def test_what_is_forgotten_changes_nothing(played: Simulation) -> None:
    """Settled candidates with one score, left out of every snapshot, as where a lab has thousands."""
    again = Simulation(some_ideas(played.world.seed), played.gates, played.slots, backlog=played.backlog).play()  # type: ignore[attr-defined]
    assert again.decisions == played.decisions
    assert len(again.lab.standings) < len(played.lab.standings)


def test_the_same_world_again_is_the_same_simulation() -> None:
    first, second = (simulate(some_ideas(5), 8, 8) for _ in range(2))
    assert first.log == second.log and first.placings == second.placings


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", range(3))
def test_harm_is_never_promoted_and_a_large_gain_always_is(seed: int, preset: str) -> None:
    """Effects of 8 σ: no preset may miss either."""
    sigma = 0.0005
    effects = [8 * sigma] * 15 + [-8 * sigma] + [8 * sigma] * 15
    played = simulate(ListedWorld(effects, seed, sigma, crash_share=0.0), 8, 8, PRESETS[preset])
    assert [d.candidate_id for d in played.decisions if isinstance(d, Promote)] == ["c0017"]


@pytest.mark.parametrize("seed", range(6))
def test_a_search_ends_better_than_it_began(seed: int) -> None:
    world = some_ideas(100 + seed, crash_share=0.0)
    played = simulate(world, 8, 8)
    assert played.truth[played.lab.baseline_id] < 0.5 * min(world.effects)


def test_a_search_of_crashes_still_ends() -> None:
    played = simulate(ListedWorld([-0.001] * 30, 3, crash_share=0.5, lost_share=0.2), 4, 4)
    assert not played.lab.undecided
    assert len(played.lab.in_state(CandidateState.FAILED)) > 5
