"""Simplicity: it breaks ties between winners, earns a removal its promotion, and cannot be milked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from benchmarks.simulation.engine import Simulation
from scheduler.domain.candidate import CandidateState, CandidateStats
from scheduler.domain.decision import PRESETS, Discard, Noise, Promote, Replicate, Rule, Shelve
from scheduler.policy.decide import decide
from scheduler.policy.explain import explain_decision
from scheduler.policy.gates import GateVerdict, judge_candidate
from tests.scheduler.policy_kit import SIGMA0, ListedWorld, baseline, board, simulate, standing

GATES = PRESETS["default"]
NOISE = Noise(SIGMA0, 20)
BASE = baseline(1.0, 1.0, 1.0, code_lines=100)


def not_worse_at(p: float, n: int, lines: int = 95, **more: object) -> CandidateStats:
    """P(worse by less than half of σ) = p against three runs of the baseline."""
    se = SIGMA0 * (1 / n + 1 / 3) ** 0.5
    return standing(2, *[1.0 + 0.5 * SIGMA0 - norm.ppf(p) * se] * n, code_lines=lines, **more)


def judge(candidate: CandidateStats, base: CandidateStats = BASE, **settings: float) -> GateVerdict:
    return judge_candidate(candidate, base, NOISE, replace(GATES, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("p", "n", "verdict"),
    [
        (0.8015, 1, Replicate),
        (0.7995, 1, Discard),
        (0.9015, 3, Promote),
        (0.8995, 3, Shelve),
    ],
)
def test_a_removal_that_is_not_worse_passes_two_gates_of_its_own(p: float, n: int, verdict: type) -> None:
    decision = judge(not_worse_at(p, n))
    assert isinstance(decision, verdict)
    if not isinstance(decision, Discard | Shelve):
        assert decision.rule is Rule.SIMPLICITY
        shown = {1: "0.801", 3: "0.901"}[n]
        assert f"simpler by 5 lines, P(not worse) {shown} after {n} run" in decision.reason


def test_after_two_runs_brevity_speaks_only_for_one_that_is_to_be_dropped() -> None:
    contender = not_worse_at(0.91, 2, state=CandidateState.CONTENDER)
    again, spent = judge(contender), judge(replace(contender, failed_runs=2))
    assert isinstance(again, Replicate) and "simpler" not in again.reason
    assert isinstance(spent, Promote) and "simpler by 5 lines" in spent.reason


def test_a_promotion_for_brevity_says_so_in_its_one_line() -> None:
    promotion = judge(not_worse_at(0.9005, 3, lines=99))
    assert isinstance(promotion, Promote)
    line = explain_decision(promotion, "x")
    assert line.startswith("promoted  c0002 x") and "simpler by 1 line, P(not worse) 0.900 after 3 runs" in line
    by_gates = replace(promotion, rule=Rule.GATES)
    assert "simpler" not in explain_decision(by_gates, "x"), "the rule decides what is shown, not a word of the reason"


@pytest.mark.parametrize(
    ("lines", "base_lines", "margin"), [(100, 100, 0.5), (101, 100, 0.5), (0, 100, 0.5), (95, 0, 0.5), (95, 100, 0.0)]
)
def test_only_fewer_lines_both_counted_and_a_margin_above_zero_earn_anything(
    lines: int, base_lines: int, margin: float
) -> None:
    base = replace(BASE, code_lines=base_lines)
    assert isinstance(judge(not_worse_at(0.9, 3, lines=lines), base, simpler_margin=margin), Discard | Shelve)


def test_brevity_does_not_carry_suspect_scores() -> None:
    assert isinstance(judge(not_worse_at(0.95, 3)), Promote)
    assert isinstance(judge(not_worse_at(0.95, 3, suspect_scores=1)), Discard | Shelve)


@given(st.lists(st.floats(0.99, 1.01), min_size=1, max_size=1), st.integers(1, 99))
def test_one_run_never_promotes_for_brevity(scores: list[float], lines: int) -> None:
    decision = judge(standing(2, *scores, code_lines=lines))
    assert not isinstance(decision, Promote) or decision.effect.p_better >= GATES.promote_now


def test_of_winners_that_cannot_be_distinguished_the_shortest_is_promoted() -> None:
    """c0002 is the best by far less than a standard error, c0004 shorter still but worse by more than one."""
    winners = [standing(2, 0.9900, code_lines=120), standing(3, 0.9905, code_lines=90)]
    short = standing(4, 0.9925, code_lines=10)
    assert promoted(*winners, short) == "c0003"
    assert promoted(replace(winners[0], code_lines=90), winners[1]) == "c0002"


def test_lines_that_no_one_counted_win_nothing_and_lose_nothing() -> None:
    assert promoted(standing(2, 0.9900, code_lines=120), standing(3, 0.9901)) == "c0002"
    assert promoted(standing(2, 0.9900), standing(3, 0.9901, code_lines=90)) == "c0002"


def promoted(*winners: CandidateStats) -> str:
    decision = decide(board(replace(BASE, code_lines=130), *winners))
    assert isinstance(decision, Promote)
    return decision.candidate_id


def removals(harm: float, seed: int, count: int = 200) -> Simulation:
    """Every idea removes a line and is truly worse by `harm` times the noise."""
    return simulate(ListedWorld([harm * SIGMA0] * count, seed, SIGMA0, 0.0, 0.0, [1] * count), 8, 8)


@pytest.mark.parametrize("harm", [0.1, 0.25, 0.5])
def test_two_hundred_removals_do_not_add_their_harm_up(harm: float) -> None:
    """One after the other, all promoted, they would cost two hundred times the harm: 20 to 100 σ."""
    played = [removals(harm, seed) for seed in range(3)]
    assert all(one.truth[one.lab.baseline_id] / SIGMA0 <= 1.0 + 1e-9 for one in played)


def test_removals_that_cost_nothing_do_get_in() -> None:
    played = [removals(0.0, seed) for seed in range(8)]
    assert sum(one.lab.baseline.code_lines < 1000 for one in played) >= 7
    assert all(one.lab.baseline.state is CandidateState.BASELINE for one in played)
