"""Whole nights through decide() and order_runs(): no slot idles, nobody is forgotten, nothing runs more than it may."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import PRESETS, Combine, Discard, Promote, Shelve
from scheduler.domain.run import RunKind
from scheduler.policy.dispatch import repeats_allowed
from scheduler.policy.gates import MAX_FAILED
from tests.scheduler.night import RUN_S, Night, World

NIGHTS = [(seed, slots, backlog) for seed, slots in enumerate([1, 2, 3, 8, 16] * 2) for backlog in (None, slots)]


def ideas(seed: int, count: int = 60) -> World:
    """A tenth of them gains of one to ten times the noise, the rest near no-ops and harm."""
    rng = random.Random(seed)
    kinds = rng.choices(("gain", "nothing", "harm"), (10, 25, 65), k=count)
    effects = {
        "gain": lambda: -rng.uniform(0.5, 5) * 1e-3,
        "nothing": lambda: 0.0,
        "harm": lambda: rng.expovariate(700),
    }
    return World([effects[kind]() for kind in kinds])


@pytest.fixture(
    params=NIGHTS, ids=lambda p: f"{p[1]}slots-{'batch' if p[2] is None else 'pull'}-{p[0]}", scope="module"
)
def night(request: pytest.FixtureRequest) -> Night:
    seed, slots, backlog = request.param
    return Night(ideas(seed), slots, seed, backlog).play()


def test_no_slot_idles_while_something_is_queued(night: Night) -> None:
    assert all(not moment.queued or len(moment.running) == night.slots for moment in night.moments)


def test_while_ideas_last_every_slot_is_busy_all_the_time(night: Night) -> None:
    exhausted = next(m.at for m in night.moments if not any(r.kind is RunKind.NEW for r in m.queued))
    full = [moment for moment in night.moments if moment.at < exhausted]
    assert full and all(len(moment.running) == night.slots for moment in full)
    last = max(m.at for m in night.moments if any(r.kind is RunKind.NEW for r in m.started))
    assert night.now - last < 15 * RUN_S  # repeats, unions and their halves, one after the other


def test_every_candidate_ends_decided_and_none_twice(night: Night) -> None:
    assert night.ideas_left == 0
    assert not night.board.undecided
    assert night.board.in_state(CandidateState.BASELINE) == (night.board.baseline,)
    closed = Counter(d.candidate_id for _, d in night.decisions if isinstance(d, Promote | Discard | Shelve))
    united = {part for _, d in night.decisions if isinstance(d, Combine) for part in d.parts}
    assert set(closed.values()) <= {1} and len(closed.keys() | united) == len(night.board.standings) - 1


def test_nobody_runs_more_than_the_rule_allows(night: Night) -> None:
    for standing in night.board.standings:
        first = standing.candidate_id == "c0001"
        # The result of a late one is recorded; a baseline that lasts is measured more often.
        more = standing.state is CandidateState.SHELVED
        in_force = standing.state in (CandidateState.BASELINE, CandidateState.PROMOTED)
        allowed = max(night.gates.max_runs, night.gates.max_baseline_runs * in_force)
        assert standing.n <= allowed + more
        assert standing.failed_runs <= (night.gates.max_runs if first else MAX_FAILED)
        assert standing.pending_runs == 0


def test_every_baseline_was_measured_as_often_as_promised(night: Night) -> None:
    gates, last = night.gates, night.board.baseline
    assert gates.first_baseline_runs <= night.board.of("c0001").n <= gates.max_baseline_runs
    wanted = min(gates.max_baseline_runs, gates.baseline_runs + night.board.trials_on_baseline // gates.baseline_every)
    assert last.n >= wanted


def test_repeats_pass_waiting_ideas_only_within_their_share(night: Night) -> None:
    allowed = repeats_allowed(night.slots, night.board)
    for moment in night.moments:
        repeats = sum(run.kind in (RunKind.REPEAT, RunKind.UNION) for run in moment.running)
        started = any(run.kind in (RunKind.REPEAT, RunKind.UNION) for run in moment.started)
        waiting = any(run.kind is RunKind.NEW for run in moment.queued)
        assert repeats <= allowed or not (started and waiting)


def test_no_idea_starts_while_the_baseline_waits_for_a_run(night: Night) -> None:
    for moment in night.moments:
        current = [run for run in moment.queued if run.candidate_id == moment.board.baseline_id]
        assert not (current and any(run.kind is RunKind.NEW for run in moment.started))


def test_a_decision_falls_on_the_result_it_is_taken_from(night: Night) -> None:
    """At the same instant as some run ended: never at a round's end, never at a timer's."""
    instants = {moment.at for moment in night.moments}
    assert {at for at, _ in night.decisions} <= instants


def test_the_same_night_again_is_the_same_night() -> None:
    first, second = (Night(ideas(5), 8, 5, 8).play() for _ in range(2))
    assert first.decisions == second.decisions and first.moments == second.moments


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", range(3))
def test_harm_is_never_promoted_and_a_large_gain_always_is(seed: int, preset: str) -> None:
    """Effects of 8 σ: no preset may miss either."""
    sigma = 0.0005
    world = World([8 * sigma] * 15 + [-8 * sigma] + [8 * sigma] * 15, sigma, crash_share=0.0)
    night = Night(world, 8, seed, 8, PRESETS[preset]).play()
    assert [d.candidate_id for _, d in night.decisions if isinstance(d, Promote)] == ["c0017"]


@pytest.mark.parametrize("seed", range(6))
def test_a_night_ends_better_than_it_began(seed: int) -> None:
    world = replace(ideas(100 + seed), crash_share=0.0)
    night = Night(world, 8, seed, 8).play()
    assert night.truth[night.board.baseline_id] < 1.0 + 0.5 * min(world.effects)


def test_a_night_of_crashes_still_ends() -> None:
    night = Night(World([-0.001] * 30, crash_share=0.5, lost_share=0.2), 4, 3, 4).play()
    assert not night.board.undecided
    assert len(night.board.in_state(CandidateState.FAILED)) > 5
