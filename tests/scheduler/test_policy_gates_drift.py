"""What the gates ask where the machine may drift, has shown that it does, or was not alike for both: more, and of more
runs. How a drift is found is test_policy_drift's.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.domain.candidate import CandidateState, CandidateStats, Occasion
from scheduler.domain.decision import PRESETS, Combine, Discard, Promote, Replicate, Shelve
from scheduler.policy.gates import MAX_FAILED, judge_candidate
from tests.scheduler.policy_kit import baseline
from tests.scheduler.test_policy_gates import GATES, NOISE, candidate_at


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("preset", ["default", "strict", "rounds", "bold"])
def test_where_the_machine_may_drift_every_promotion_asks_for_more(preset: str, n: int) -> None:
    base, gates = baseline(1.0, 1.0, 1.0), PRESETS[preset]
    likely = replace(NOISE, drift=0.5 * NOISE.sigma, p_unsteady=0.01)
    between = candidate_at((max(gates.promote_now, gates.promote) + gates.drift_promote) / 2, n)
    above = candidate_at((1 + gates.drift_promote) / 2, n)
    slots = replace(likely, drift=0.4 * NOISE.sigma, offset=NOISE.sigma)
    for steady in (NOISE, replace(likely, drift=0.4 * NOISE.sigma), slots):
        assert isinstance(judge_candidate(between, base, steady, gates), Promote)
    assert not isinstance(judge_candidate(between, base, likely, gates), Promote)
    assert isinstance(judge_candidate(above, base, likely, gates), Promote)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("preset", ["default", "strict", "rounds", "bold"])
def test_where_scores_have_shown_a_drift_every_promotion_asks_for_still_more(preset: str, n: int) -> None:
    base, gates = baseline(1.0, 1.0, 1.0), PRESETS[preset]
    shown = replace(NOISE, drift=0.5 * NOISE.sigma, p_unsteady=0.5)
    between = candidate_at((gates.drift_promote + gates.unsteady_promote) / 2, n)
    less_likely, smaller = replace(shown, p_unsteady=0.49), replace(shown, drift=0.4 * NOISE.sigma)
    for other in (NOISE, less_likely, smaller, replace(smaller, offset=NOISE.sigma)):
        assert isinstance(judge_candidate(between, base, other, gates), Promote)
    verdict = judge_candidate(between, base, shown, gates)
    assert not isinstance(verdict, Promote)
    assert f"and {gates.unsteady_promote:g} is asked where the machine drifts" in verdict.reason
    said = float(verdict.reason.split()[1])
    assert gates.drift_promote <= said < gates.unsteady_promote  # with the digits that show it
    assert isinstance(judge_candidate(candidate_at((1 + gates.unsteady_promote) / 2, n), base, shown, gates), Promote)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("preset", ["default", "strict", "rounds", "bold"])
def test_where_slots_differ_repeats_pass_the_bar_of_a_first_run_and_have_more_runs_for_it(preset: str, n: int) -> None:
    base, gates = baseline(1.0, 1.0, 1.0), PRESETS[preset]
    slots, alike = (replace(NOISE, offset=ratio * NOISE.sigma, p_unsteady=0.9) for ratio in (0.5, 0.4))
    between = candidate_at((gates.promote + gates.promote_now) / 2, n)
    assert isinstance(judge_candidate(between, base, alike, gates), Promote)
    verdict = judge_candidate(between, base, slots, gates)
    asked = f"and {gates.promote_now:.2f} is asked where slots differ: one more"
    assert isinstance(verdict, Replicate) == (gates.promote < gates.promote_now)
    assert (asked in verdict.reason) == (gates.promote < gates.promote_now)
    assert isinstance(judge_candidate(candidate_at((1 + gates.promote_now) / 2, n), base, slots, gates), Promote)
    assert isinstance(judge_candidate(candidate_at((1 + gates.promote_now) / 2), base, slots, gates), Promote)


DRIFTING = {
    "may drift": replace(NOISE, drift=0.5 * NOISE.sigma, p_unsteady=0.2),
    "drifts": replace(NOISE, drift=0.5 * NOISE.sigma, p_unsteady=0.6),
}


@pytest.mark.parametrize("machine", DRIFTING)
@pytest.mark.parametrize("preset", ["default", "strict", "rounds", "bold"])
def test_what_only_drift_keeps_out_is_measured_beyond_the_usual_runs_and_then_kept(preset: str, machine: str) -> None:
    base, gates, noise = baseline(1.0, 1.0, 1.0), PRESETS[preset], DRIFTING[machine]
    between = (gates.promote + gates.drift_promote) / 2
    most = gates.max_runs + gates.drift_runs
    found = {n: judge_candidate(candidate_at(between, n), base, noise, gates) for n in range(2, most + 3)}
    assert [n for n, verdict in found.items() if isinstance(verdict, Replicate)] == list(range(2, most))
    assert isinstance(found[most], Shelve)  # its patch may yet win in a union
    for n in range(gates.max_runs, most):
        assert found[n].reason.endswith(f"is asked where the machine {machine}: one more run")
    above = candidate_at((1 + gates.unsteady_promote) / 2, gates.max_runs + 1)
    assert isinstance(judge_candidate(above, base, noise, gates), Promote)


def test_nothing_else_is_measured_beyond_the_usual_runs() -> None:
    base, noise, n = baseline(1.0, 1.0, 1.0), DRIFTING["may drift"], GATES.max_runs
    between = (GATES.promote + GATES.drift_promote) / 2
    for stats in (
        candidate_at(GATES.promote - 0.01, n),  # no clear gain, drift or not
        candidate_at(between, n, failed_runs=MAX_FAILED),
        candidate_at(between, n, suspect_scores=1),
    ):
        assert isinstance(judge_candidate(stats, base, noise, GATES), Shelve | Discard)
    assert isinstance(judge_candidate(candidate_at(GATES.promote - 0.01, n), base, NOISE, GATES), Shelve)
    assert not PRESETS["greedy"].drift_runs


def test_one_made_from_an_older_baseline_is_promoted_at_what_the_machine_asks_and_else_carried_over() -> None:
    own = replace(baseline(1.1, 1.1, 1.1), state=CandidateState.PROMOTED)
    base = replace(baseline(1.0, 1.0, 1.0), candidate_id="c0009")
    between = candidate_at((GATES.promote_now + GATES.drift_promote) / 2)
    assert isinstance(judge_candidate(between, base, NOISE, GATES, own), Promote)
    for noise in DRIFTING.values():
        assert isinstance(judge_candidate(between, base, noise, GATES, own), Combine)
        above = judge_candidate(candidate_at((1 + GATES.unsteady_promote) / 2), base, noise, GATES, own)
        assert isinstance(above, Promote) and above.reason.endswith("against a baseline newer than its own")


def at_speeds(stats: CandidateStats, *speeds: float | None) -> CandidateStats:
    return replace(stats, occasions=tuple(Occasion(0.0, "n/a", seed, one) for seed, one in enumerate(speeds, 1)))


@pytest.mark.parametrize(
    ("ours", "theirs", "differs"),
    [
        ((0.979,), (1.0, 1.0, 1.0), True),
        ((1.021,), (1.0, 1.0, 1.0), True),
        ((0.981,), (1.0, 1.0, 1.0), False),
        ((0.96, 1.0), (0.98, 0.98, 0.98), False),  # it was measured at both ends of theirs
        ((0.96, 0.96), (0.98, 0.98, 1.0), True),
        ((None,), (1.0, 1.0, 1.0), False),
        ((0.9,), (None, None, None), False),
        ((0.94, None), (1.0, None, 1.0), True),
    ],
)
@pytest.mark.parametrize("preset", ["default", "strict", "bold"])
def test_where_the_machine_was_faster_for_one_of_the_two_a_promotion_asks_for_more(
    preset: str, ours: tuple[float | None, ...], theirs: tuple[float | None, ...], differs: bool
) -> None:
    base, gates, n = at_speeds(baseline(1.0, 1.0, 1.0), *theirs), PRESETS[preset], len(ours)
    between = at_speeds(candidate_at((max(gates.promote_now, gates.promote) + gates.drift_promote) / 2, n), *ours)
    verdict = judge_candidate(between, base, NOISE, gates)
    assert isinstance(verdict, Promote) != differs
    assert ("is asked where the machine was not alike for both" in verdict.reason) == differs
    above = at_speeds(candidate_at((1 + gates.drift_promote) / 2, n), *ours)
    assert isinstance(judge_candidate(above, base, NOISE, gates), Promote)


@pytest.mark.parametrize(
    ("ours", "theirs", "speed", "differs"),
    [
        ((31.0,), (20.0, 20.0, 20.0), 1.0, True),  # others had the core for a third of the time
        ((20.0,), (31.0, 29.0, 31.0), 1.0, True),
        ((29.0,), (20.0, 20.0, 20.0), 1.0, False),
        ((120.0, 20.0), (20.0, 20.0, 20.0), 1.0, True),
        ((21.0, 60.0), (20.0, 20.0, 80.0), 1.0, False),  # both were measured so and so
        ((31.0,), (20.0, 20.0, 20.0), None, False),  # no clock in work: it trains for as long as it likes
        ((None,), (20.0, 20.0, 20.0), 1.0, False),
    ],
)
def test_where_the_machine_was_busier_for_one_of_the_two_a_promotion_asks_for_more(
    ours: tuple[float | None, ...], theirs: tuple[float | None, ...], speed: float | None, differs: bool
) -> None:
    def timed(stats: CandidateStats, times: tuple[float | None, ...]) -> CandidateStats:
        return replace(stats, occasions=tuple(Occasion(0.0, "n/a", n, speed, one) for n, one in enumerate(times, 1)))

    base = timed(baseline(1.0, 1.0, 1.0), theirs)
    assert (
        isinstance(judge_candidate(timed(candidate_at(0.99, len(ours)), ours), base, NOISE, GATES), Promote) != differs
    )
    assert isinstance(judge_candidate(timed(candidate_at(0.999, len(ours)), ours), base, NOISE, GATES), Promote)
