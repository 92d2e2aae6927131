"""Waiting for those that ran together: short whatever happens, the best of them promoted, and rounds that end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation.engine import RUN_S
from benchmarks.simulation.transitions import finished, requeued
from scheduler.domain.candidate import CandidateState, CandidateStats, Occasion
from scheduler.domain.decision import PRESETS, Discard, GateSettings, Promote
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import RunKind
from scheduler.policy.decide import decide, is_holding, promotion_waits_until
from scheduler.policy.dispatch import explain_waiting
from scheduler.policy.siblings import round_closes, without_held
from tests.scheduler.policy_kit import SIGMA0, baseline, board, run, simulate, some_ideas, standing

DEFAULT, ROUNDS = PRESETS["default"], PRESETS["rounds"]
PATIENCE = DEFAULT.sibling_wait * RUN_S
ENDED = 10_000.0  # when the winner's run ended
BASE = baseline(1.0, 1.0, 1.0)
GAIN = 8 * SIGMA0
KINDS = (RunKind.NEW, RunKind.REPEAT, RunKind.UNION, RunKind.BASELINE, RunKind.AUDIT, RunKind.CLAIM)


def scored(number: int, score: float, ended: float = ENDED) -> CandidateStats:
    return standing(number, score, occasions=(Occasion(ended - RUN_S / 2, f"sim/slot{number}", 1),))


def running(number: int, ends: float, **more: object) -> CandidateStats:
    """With a run on a slot, expected to end then."""
    return standing(number, pending_runs=1, running_since=(ends - RUN_S,), **more)


def at(now: float | None, *candidates: CandidateStats, gates: GateSettings = DEFAULT) -> LabSnapshot:
    return replace(board(BASE, *candidates, gates=gates), now=now, run_s=RUN_S)


WINNER = scored(2, 1.0 - GAIN)
SOON = running(3, ENDED + PATIENCE / 2)


def test_a_promotion_waits_for_a_run_that_ends_with_it_and_the_better_one_is_promoted() -> None:
    now = at(ENDED + 1, WINNER, SOON)
    assert decide(now) is None and is_holding(now)
    assert promotion_waits_until(now) == pytest.approx(ENDED + PATIENCE)
    better = Occasion(ENDED - RUN_S / 2, "sim/slot3", 1)
    now = finished(now, "c0003", 1.0 - 2 * GAIN, occasion=better, since=SOON.running_since[0])
    taken = decide(now)
    assert isinstance(taken, Promote) and taken.candidate_id == "c0003"


@pytest.mark.parametrize("end", ["worse", "crash", "lost slot"])
def test_it_goes_ahead_when_the_one_waited_for_comes_to_nothing(end: str) -> None:
    now, since = at(ENDED + 1, WINNER, SOON), SOON.running_since[0]
    if end == "lost slot":
        now = requeued(now, "c0003", since)
    else:
        now = finished(now, "c0003", 1.1 if end == "worse" else None, since=since)
    taken = decide(now)
    if isinstance(taken, Discard) and taken.effect is None:  # the crash is settled first
        now = replace(now, standings=now.standings[:2])
        taken = decide(now)
    assert isinstance(taken, Promote) and taken.candidate_id == "c0002"


@pytest.mark.parametrize(
    ("sibling", "now"),
    [
        (running(3, ENDED + 2 * PATIENCE), ENDED + 1),  # too late
        (running(3, ENDED - 2 * PATIENCE), ENDED + 1),  # overdue: no one knows when it ends
        (standing(3, pending_runs=1), ENDED + 1),  # holds no slot
        (replace(running(3, ENDED + 1), base_id="c0004"), ENDED + 1),  # of an older baseline
        (SOON, ENDED + PATIENCE),  # waited long enough
        (SOON, ENDED - RUN_S),  # the clock went back
        (SOON, ENDED + 1e9),  # and ahead
        (SOON, None),
    ],
)
def test_it_waits_for_nothing_else(sibling: CandidateStats, now: float | None) -> None:
    lab = at(now, WINNER, sibling, standing(4, 1.0, state=CandidateState.PROMOTED))
    assert isinstance(decide(lab), Promote) and not is_holding(lab)


@pytest.mark.parametrize("unknown", ["run_s", "occasions", "sibling_wait"])
def test_where_times_are_not_known_nothing_waits(unknown: str) -> None:
    lab = at(ENDED + 1, replace(WINNER, occasions=()) if unknown == "occasions" else WINNER, SOON)
    lab = replace(lab, run_s=None) if unknown == "run_s" else lab
    lab = replace(lab, gates=replace(DEFAULT, sibling_wait=0.0)) if unknown == "sibling_wait" else lab
    assert isinstance(decide(lab), Promote)


def test_while_it_waits_nothing_is_decided_or_begun_that_it_would_make_stale() -> None:
    lab = at(ENDED + 1, scored(1 + 9, 1.1), WINNER, SOON)  # the first is to be dropped
    assert decide(lab) is None
    queued = [run(number, kind) for number, kind in enumerate(KINDS)]
    assert {one.kind for one in without_held(queued)} == {RunKind.AUDIT, RunKind.CLAIM}
    assert isinstance(decide(replace(lab, now=ENDED + PATIENCE)), Promote)


SIBLINGS = st.lists(st.floats(-3 * RUN_S, 3 * RUN_S), max_size=8)
WINS = st.lists(st.tuples(st.floats(0.0, RUN_S), st.floats(1, 3)), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(SIBLINGS, WINS, st.floats(-RUN_S, RUN_S), st.floats(0.01, 1.0))
def test_waiting_is_bounded_whatever_runs_and_whoever_wins(
    ends: list[float], wins: list[tuple[float, float]], now: float, share: float
) -> None:
    """Asked again at the time it names, it names a later one at most once per sibling, and none after the bound."""
    winners = [scored(k + 2, 1.0 - gain * GAIN, ENDED + late) for k, (late, gain) in enumerate(wins)]
    siblings = [running(k + 20, ENDED + end) for k, end in enumerate(ends)]
    lab = at(ENDED + now, *winners, *siblings, gates=replace(DEFAULT, sibling_wait=share))
    bound = ENDED + min(late for late, _ in wins) + share * RUN_S
    for _ in range(len(siblings) + 2):
        until = promotion_waits_until(lab)
        if until is None:
            break
        assert lab.now is not None and lab.now < until <= bound + 1e-6
        assert decide(lab) is None
        lab = replace(lab, now=until)
    assert isinstance(decide(lab), Promote)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_in_whole_searches_no_promotion_waits_longer_than_its_share(share: float) -> None:
    waits = 0
    for seed in range(6):
        played = simulate(some_ideas(seed), 8, 8, replace(DEFAULT, sibling_wait=share))
        since: float | None = None
        for step in played.log:
            if isinstance(step.decision, Promote):
                # Reckoned from the middle of its run: half of what a run was shorter than usual comes on top.
                assert since is None or (step.at - since) / played.world.plain <= share + 0.1
                since = None
            elif step.kind == "decision" and step.lab is not None:
                if promotion_waits_until(step.lab) is None:
                    since = None  # what came in meanwhile says that it is not due any more
                else:
                    since, waits = (step.at if since is None else since), waits + 1
        assert since is None
    assert waits


# rounds


def test_a_round_is_decided_when_its_last_result_is_in() -> None:
    late = running(3, ENDED + 3 * RUN_S)
    lab = at(ENDED + 1, WINNER, late, gates=ROUNDS)
    assert decide(lab) is None and is_holding(lab)
    lab = finished(lab, "c0003", 1.0 - 2 * GAIN, since=late.running_since[0])
    taken = decide(lab)
    assert isinstance(taken, Promote) and taken.candidate_id == "c0003"


def test_what_a_round_holds_back_is_reported_why() -> None:
    lab = at(ENDED + 1, WINNER, SOON, gates=ROUNDS)
    queued = [run(1, RunKind.NEW), run(2, RunKind.AUDIT)]
    assert "run together" in explain_waiting(queued[0], queued, [], 2, lab)
    assert "starts at once" in explain_waiting(queued[1], queued, [], 2, lab)


def test_a_lost_slot_ends_the_round_without_it() -> None:
    lab = at(ENDED + 1, WINNER, SOON, gates=ROUNDS)
    lab = requeued(lab, "c0003", SOON.running_since[0])
    assert isinstance(decide(lab), Promote) and not is_holding(lab)


def test_a_round_takes_ideas_until_its_first_result() -> None:
    assert not is_holding(at(ENDED, SOON, running(4, ENDED + 50), gates=ROUNDS))
    waits = standing(5, 1.0 - 2 * SIGMA0, state=CandidateState.CONTENDER, pending_runs=1)
    assert not is_holding(at(ENDED, SOON, waits, gates=ROUNDS))  # its repeat runs with the next round


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_in_rounds_ideas_are_judged_and_begun_only_between_them(slots: int) -> None:
    world = some_ideas(slots, crash_share=0.15, lost_share=0.1)
    played = simulate(world, slots, slots, ROUNDS)
    assert not played.lab.undecided and sum(step.kind == "idea" for step in played.log) == 60
    for step in played.log:
        if isinstance(step.decision, Promote) or (isinstance(step.decision, Discard) and step.decision.effect):
            assert step.lab is not None and not _running_with_it(step.lab)
    assert not any(placing.started and round_closes(placing.lab) for placing in played.placings)


def _running_with_it(lab: LabSnapshot) -> list[str]:
    return [s.candidate_id for s in lab.undecided if s.running_since and s.base_id == lab.baseline_id]
