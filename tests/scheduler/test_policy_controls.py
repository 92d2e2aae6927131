"""Controls: bought on a machine that has shown drift, near in time to what waits for them, and within their share; and
scores from a machine unlike their controls', which are decided after a repeat. Does not say that controls help.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.simulation.transitions import applied, finished
from scheduler.domain.candidate import CandidateState, CandidateStats, Occasion
from scheduler.domain.decision import (
    PRESETS,
    Decision,
    Discard,
    MeasureBaseline,
    Merge,
    Noise,
    Promote,
    Replicate,
    Retry,
    Rule,
)
from scheduler.domain.lab import LabSnapshot
from scheduler.policy.controls import control_due, unlike_controls
from scheduler.policy.decide import awaited_control, decide
from scheduler.policy.explain import explain_decision
from tests.scheduler.policy_kit import SIGMA0, baseline, board, standing

RUN_S = 300.0
DRIFTS = Noise(SIGMA0, 20, drift=4 * SIGMA0, scale_s=24 * RUN_S)


def runs(*at: float, speed: float | None = None) -> tuple[Occasion, ...]:
    return tuple(Occasion(t * RUN_S, "n/a", seed, speed) for seed, t in enumerate(at, 1))


def lab(last: float, *, now: float = 40.0, trials: int = 100, extra: int = 0) -> LabSnapshot:
    """A baseline of four runs and so many more, the newest at `last`, and one that runs since `now` (run lengths)."""
    at = (0, 1, 2, *(3 for _ in range(extra)), last)
    base = replace(baseline(*(1.0 for _ in at), occasions=runs(*at)), base_id=None)
    idea = standing(2, pending_runs=1, running_since=(now * RUN_S,))
    return replace(board(base, idea), left_out=trials, run_s=RUN_S)


def test_a_control_is_due_once_the_last_is_a_sixth_of_the_drifts_scale_away() -> None:
    control = control_due(lab(35.9), DRIFTS, 4)
    assert control == MeasureBaseline(
        "c0001", f"a control: its last run was 20 min ago and the machine drifts by {4 * SIGMA0:.4f}"
    )
    assert control_due(lab(36.1), DRIFTS, 4) is None


@pytest.mark.parametrize("drift", [0.0, 0.4 * SIGMA0])
def test_a_machine_that_has_shown_no_drift_buys_none(drift: float) -> None:
    assert control_due(lab(3), replace(DRIFTS, drift=drift), 4) is None
    assert decide(lab(3, trials=19)) is None


def test_none_is_bought_for_an_idle_lab_or_while_one_is_on_its_way() -> None:
    there = lab(3)
    assert control_due(replace(there, standings=(there.baseline,)), DRIFTS, 4) is None
    waits = replace(there.baseline, pending_runs=1)
    assert control_due(replace(there, standings=(waits, *there.standings[1:])), DRIFTS, 4) is None


@pytest.mark.parametrize(("trials", "bought"), [(9, 0), (10, 1), (39, 3), (100, 10)])
def test_controls_stay_within_their_share_of_what_was_tried_on_the_baseline(trials: int, bought: int) -> None:
    due = [control_due(lab(3, trials=trials, extra=extra), DRIFTS, 4) is not None for extra in range(30)]
    assert due == [extra < bought for extra in range(30)]


def in_doubt(n: int = 3, *, controls: int = 0, trials: int = 9, first: bool = True, **more: object) -> LabSnapshot:
    """One that has had `n` runs from time 5 on and waits for another; a baseline of three runs before and controls."""
    at = (0, 1, 2, *(5 + n + number for number in range(controls)))
    idea = standing(2, *[0.99] * n, occasions=runs(*(5 + i for i in range(n))), **{"pending_runs": 1} | more)
    base = replace(baseline(*[1.0] * len(at), occasions=runs(*at)), base_id=None)
    return replace(board(base, idea, first=first), run_s=RUN_S, left_out=trials)


MAY_DRIFT = replace(DRIFTS, drift=SIGMA0, p_unsteady=0.2)


def test_a_control_goes_next_to_each_run_beyond_the_usual() -> None:
    for n in (3, 4, 5):
        control = control_due(in_doubt(n), MAY_DRIFT, 3)
        assert control is not None and f"a control next to run {n + 1} of c0002: more is asked" in control.reason
    assert control_due(in_doubt(5, controls=1), MAY_DRIFT, 3) is None  # it has one since
    assert control_due(in_doubt(2), MAY_DRIFT, 3) is None
    assert control_due(in_doubt(pending_runs=0), MAY_DRIFT, 3) is None
    assert control_due(in_doubt(state=CandidateState.SHELVED), MAY_DRIFT, 3) is None
    assert control_due(in_doubt(), Noise(SIGMA0, 20), 3) is None


@pytest.mark.parametrize(("trials", "bought"), [(9, 1), (19, 1), (20, 2), (39, 3)])
def test_such_controls_stay_within_their_share_but_for_the_first(trials: int, bought: int) -> None:
    there = in_doubt(trials=trials - 1)  # the candidate itself is one
    due = []
    for k in range(9):
        base = replace(there.baseline, scores=(1.0,) * (3 + k), occasions=runs(*[0] * (3 + k)))
        measured = replace(there, standings=(base, *there.standings[1:]))
        due.append(control_due(measured, MAY_DRIFT, 3) is not None)
    assert due == [k < bought for k in range(9)]


def test_runs_that_a_baseline_had_as_a_candidate_are_no_controls() -> None:
    gates, three_more = PRESETS["default"], in_doubt(controls=3)
    baseline_of_six = replace(three_more.baseline, occasions=runs(*range(6)))
    there = replace(three_more, standings=(baseline_of_six, *three_more.standings[1:]))
    assert there.baseline.n == gates.max_runs + gates.drift_runs
    assert control_due(there, MAY_DRIFT, 2) is None  # the first was never a candidate
    assert control_due(replace(there, first_baseline=False), MAY_DRIFT, 2) is not None


def odd(*scores: float, speed: float = 0.71, **more: object) -> CandidateStats:
    return standing(2, *scores, occasions=runs(*(50 + i for i in range(len(scores))), speed=speed), **more)


def steady_base(speed: float = 1.0) -> CandidateStats:
    return baseline(*[1.0] * 3, occasions=(*runs(0, 1, speed=0.95), *runs(2, speed=speed)))


@pytest.mark.parametrize(
    ("speed", "is_unlike"), [(0.71, True), (0.85, True), (0.86, False), (1.09, False), (1.11, True), (None, False)]
)
def test_unlike_is_a_tenth_beyond_the_range_of_the_controls(speed: float | None, is_unlike: bool) -> None:
    assert unlike_controls(odd(1.0, speed=speed), steady_base()) == is_unlike  # type: ignore[arg-type]
    assert not unlike_controls(odd(1.0, speed=speed), baseline(1.0, occasions=runs(1)))  # type: ignore[arg-type]


@pytest.mark.parametrize("score", [0.9, 1.1])
def test_a_score_from_such_a_machine_neither_promotes_nor_drops_before_a_repeat_next_to_a_control(score: float) -> None:
    now = replace(board(steady_base(), odd(score)), run_s=RUN_S)
    first = decide(now)
    assert isinstance(first, Replicate) and first.rule is Rule.MACHINE
    words = "measured on a machine unlike its controls': speed 0.71, theirs 0.95 to 1.00"
    assert words in first.reason and words in explain_decision(first, "idea")
    now = applied(now, first)
    control = decide(now)
    assert isinstance(control, MeasureBaseline) and control.reason == f"a control: c0002 was {words}"
    now = applied(now, control)
    assert decide(now) is None
    now = finished(now, "c0001", 1.0, occasion=runs(51, speed=0.9)[0])
    now = finished(now, "c0002", score, occasion=runs(52, speed=0.9)[0])
    assert isinstance(decide(now), Promote if score < 1 else Discard)


@pytest.mark.parametrize("score", [0.9, 1.1])
@pytest.mark.parametrize("control", [1.0, None])
def test_it_waits_for_the_control_next_to_its_repeat_whichever_ends_first(score: float, control: float | None) -> None:
    now = replace(board(steady_base(), odd(score)), run_s=RUN_S)
    now = applied(now, decide(now))  # type: ignore[arg-type]
    bought = decide(now)
    now = applied(now, bought)  # type: ignore[arg-type]
    now = finished(now, "c0002", score, occasion=runs(51, speed=0.72)[0])
    assert decide(now) is None and awaited_control(now, "c0002") == bought
    now = finished(now, "c0001", control, occasion=runs(52, speed=0.73)[0])
    assert control is None or awaited_control(now, "c0002") is None
    made = 1
    while isinstance(decided := decide(now), MeasureBaseline):  # one that failed is made again
        now, made = finished(applied(now, decided), "c0001", None), made + 1
    assert made == (1 if control else now.gates.max_runs)
    assert isinstance(decided, Promote if score < 1 else Discard)


def test_without_repeats_to_spend_it_is_decided_as_it_is() -> None:
    greedy = replace(board(steady_base(), odd(0.9), gates=PRESETS["greedy"]), run_s=RUN_S)
    assert isinstance(decide(greedy), Promote)


def test_a_lab_whose_machine_is_always_odd_and_whose_repeats_fail_comes_to_an_end() -> None:
    now, taken = replace(board(steady_base(), odd(0.9)), run_s=RUN_S), list[Decision]()
    while len(taken) < 20:
        decision = decide(now)
        if decision is not None:
            taken.append(decision)
            now = applied(now, decision)
        elif pending := [stats for stats in now.standings if stats.pending_runs]:
            failing = pending[0].candidate_id == "c0002"
            score, occasion = (None, None) if failing else (1.0, runs(60)[0])
            now = finished(now, pending[0].candidate_id, score, occasion=occasion)
        else:
            break
    assert [type(decision) for decision in taken[:4]] == [Replicate, MeasureBaseline, Retry, Promote]
    assert len(taken) < 10 and now.baseline_id == "c0002"


def test_a_stale_baselines_candidate_is_not_promoted_on_such_a_score_alone() -> None:
    new = standing(3, *[0.999] * 4, state=CandidateState.BASELINE, occasions=runs(0, 1, 2, 3, speed=1.0))
    former = replace(steady_base(), state=CandidateState.PROMOTED)
    for speed, kind in ((1.0, Promote), (0.71, None)):
        stale = replace(board(new, odd(0.9, speed=speed), former, first=False), run_s=RUN_S)
        assert isinstance(decide(stale), Promote) == (kind is Promote)


def due_promotion(
    *speeds: float | None, at: float = 5.0, base_speed: float | None = 1.0, trials: int = 9
) -> LabSnapshot:
    """A baseline of three runs until time 2 (run lengths), and a clear gain measured at `at` and after it."""
    base = baseline(*[1.0] * 3, occasions=runs(0, 1, 2, speed=base_speed))
    occasions = tuple(runs(at + later, speed=speed)[0] for later, speed in enumerate(speeds))
    return replace(board(base, standing(2, *[0.99] * len(speeds), occasions=occasions)), run_s=RUN_S, left_out=trials)


@pytest.mark.parametrize(
    ("lab_now", "waits"),
    [
        (due_promotion(0.97), True),
        (due_promotion(0.97, trials=1), True),
        (due_promotion(0.985, trials=7), False),  # the machine is as it was, and a control more than its share
        (due_promotion(0.985, trials=8), True),  # one in ten
        (due_promotion(None, base_speed=None, trials=7), False),
        (due_promotion(None, base_speed=None), True),  # no speed is known, and scores have shown no drift
        (due_promotion(0.97, at=3.9), False),  # the baseline was measured just before
        (due_promotion(1.04), True),
        (replace(due_promotion(0.97), run_s=None), False),
        (replace(due_promotion(0.97), gates=PRESETS["greedy"]), False),
    ],
)
def test_a_promotion_waits_for_a_control_within_its_share_and_beyond_where_the_machine_has_moved_since_the_last(
    lab_now: LabSnapshot, waits: bool
) -> None:
    decision = decide(lab_now)
    assert isinstance(decision, MeasureBaseline if waits else Promote)
    if waits:
        assert "a control before c0002 is promoted: the baseline's last run was 15 min before its" in decision.reason
        speeds = {occasion.speed for stats in lab_now.standings for occasion in stats.occasions}
        assert ("the machine's speed was " in decision.reason) == (len(speeds) > 1 and 0.985 not in speeds)
        assert decision.reason in explain_decision(decision, "first")


@pytest.mark.parametrize(("score", "kind"), [(1.0, Promote), (0.9885, Discard)])
def test_a_promotion_that_waits_is_decided_with_the_controls_score(score: float, kind: type[Decision]) -> None:
    now = due_promotion(0.97)
    control = decide(now)
    assert isinstance(control, MeasureBaseline)
    assert awaited_control(now, "c0002") == control
    now = applied(now, control)
    assert decide(now) is None  # it waits while the control runs
    assert awaited_control(now, "c0002") == control and awaited_control(now, "c0001") is None
    assert isinstance(decide(finished(now, "c0001", score, occasion=runs(6, speed=0.97)[0])), kind)


def test_what_is_due_on_others_is_decided_while_a_promotion_waits_for_its_control() -> None:
    now = due_promotion(0.97)
    bad = standing(3, 1.01, occasions=runs(5, speed=0.97))
    now = applied(replace(now, standings=(*now.standings, bad)), decide(now))  # type: ignore[arg-type]
    dropped = decide(now)
    assert isinstance(dropped, Discard) and dropped.candidate_id == "c0003"
    assert decide(applied(now, dropped)) is None


def test_a_promotion_does_not_wait_for_a_control_that_always_fails() -> None:
    now, taken = due_promotion(0.97), list[Decision]()
    while not taken or isinstance(taken[-1], MeasureBaseline):
        decision = decide(now)
        assert decision is not None and len(taken) < 10
        taken.append(decision)
        now = applied(now, decision)
        if isinstance(decision, MeasureBaseline):
            now = finished(now, "c0001", None)
    assert isinstance(taken[-1], Promote) and 1 < len(taken) < 6


@pytest.mark.parametrize(
    ("speed", "bought", "trials", "waits"),
    [
        (0.97, 1, 9, True),  # the share is spent, and the machine has moved: one in advance
        (0.97, 2, 9, False),
        (0.97, 2, 19, True),
        (1.0, 1, 9, False),
        (1.0, 1, 19, True),
    ],
)
def test_where_the_machine_has_moved_a_promotion_takes_one_control_in_advance(
    speed: float, bought: int, trials: int, waits: bool
) -> None:
    """Controls next to candidates that were dropped since have taken all that a tenth of the trials allows."""
    now = due_promotion(speed, trials=trials)
    base = baseline(*[1.0] * (3 + bought), occasions=runs(0, 1, *[2] * (1 + bought), speed=1.0))
    decision = decide(replace(now, standings=(base, *now.standings[1:])))
    assert isinstance(decision, MeasureBaseline if waits else Promote)


def left_behind(*, runs_of_it: int = 2, pending_runs: int = 0) -> LabSnapshot:
    """A baseline of two runs until time 1, and a contender of the former one that clearly beats it too, at 5 and 6."""
    former = standing(90, *[1.0] * 3, state=CandidateState.PROMOTED, occasions=runs(0, 0, 0, speed=1.0))
    base = replace(baseline(0.999, 0.999, occasions=runs(0, 1, speed=1.0)), base_id="c0090")
    late = standing(
        2, *[0.98] * runs_of_it, state=CandidateState.CONTENDER, pending_runs=pending_runs,
        occasions=runs(*(5 + i for i in range(runs_of_it)), speed=0.97),
    )  # fmt: skip
    now = board(base, former, replace(late, base_id="c0090"), first=False)
    return replace(now, run_s=RUN_S, left_out=9)


def test_a_contender_left_behind_that_waits_for_a_control_is_not_merged_away_meanwhile() -> None:
    now = left_behind()
    control = decide(now)
    assert isinstance(control, MeasureBaseline)
    now = applied(now, control)
    assert decide(now) is None
    promoted = decide(finished(now, "c0001", 0.999, occasion=runs(6, speed=0.97)[0]))
    assert isinstance(promoted, Promote) and promoted.candidate_id == "c0002"


def test_one_whose_patch_may_not_be_carried_over_waits_for_a_control_too_though_it_has_a_run_under_way() -> None:
    worn = tuple(Merge(number, "c0001", ("c0002",), (), None, 0, 0.0) for number in range(1, 9))
    now = replace(left_behind(pending_runs=1), merges=worn)
    control = decide(now)
    assert isinstance(control, MeasureBaseline)
    now = applied(now, control)
    assert decide(now) is None
    assert isinstance(decide(finished(now, "c0001", 0.999, occasion=runs(6, speed=0.97)[0])), Promote)
