"""What an evaluation may cost: frozen models pay nothing, whatever computes before or within a forward does."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judge.evaluation_cost import EvaluationCost, charge_s
from harness.protocol import Op

BUDGET_S = 20.0
SLACK_S = 0.4


@given(st.lists(st.floats(0.01, 0.02), min_size=4, max_size=60), st.floats(0, SLACK_S))
def test_equal_forwards_are_free(forwards_s: list[float], other_s: float) -> None:
    assert charge_s(forwards_s, other_s, BUDGET_S) == 0.0


@pytest.mark.parametrize("heavy", [1, 8, 23])
def test_work_in_few_forwards_is_charged(heavy: int) -> None:
    """Up to three quarters of them: the lower quartile is what a frozen model costs."""
    assert charge_s([1.0] * heavy + [0.05] * (32 - heavy), 0.0, BUDGET_S) == pytest.approx(
        heavy * (1.0 - 0.155) - SLACK_S
    )


def test_work_outside_forwards_is_charged() -> None:
    assert charge_s([0.1] * 32, 2.0, BUDGET_S) == pytest.approx(2.0 - SLACK_S)


def test_an_evaluation_without_forwards_is_charged_whole() -> None:
    assert charge_s([], 2.0, BUDGET_S) == pytest.approx(2.0 - SLACK_S)


class Clock:
    """A budget clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def played(
    *, wall: bool, judge_s: float = 0.0, forwards_s: tuple[float, ...] = (0.1,) * 8, begin_s: float = 0.0
) -> float:
    """The charge for an evaluation of two slices a forward; the judge needs `judge_s` after each answer."""
    clock = Clock()
    cost = EvaluationCost(clock, BUDGET_S, wall=wall)
    clock.now_s += begin_s
    cost.candidate_answered()
    clock.now_s += judge_s
    cost.candidate_asked(Op.HOST_BUFFER, begins_forward=False)
    cost.candidate_answered()
    for spent_s, begins in itertools.product(forwards_s, (True, False)):
        cost.candidate_asked(Op.BATCH if begins else Op.SLICE, begins_forward=begins)
        clock.now_s += spent_s / 2
        cost.candidate_answered()
        clock.now_s += judge_s
    return cost.charged_s()


@pytest.mark.parametrize("wall", [True, False])
def test_a_frozen_model_is_charged_nothing(wall: bool) -> None:
    assert played(wall=wall) == 0.0


def test_the_judges_own_work_costs_on_no_wall_clock() -> None:
    """On a CPU clock, which counts the candidate alone, what runs meanwhile is the candidate's."""
    assert played(wall=True, judge_s=0.5) == 0.0
    assert played(wall=False, judge_s=0.5) == pytest.approx(0.5 * 17 - SLACK_S)


@pytest.mark.parametrize("wall", [True, False])
def test_work_before_the_buffer_is_open_is_charged(wall: bool) -> None:
    assert played(wall=wall, begin_s=3.0) == pytest.approx(3.0 - SLACK_S)


@pytest.mark.parametrize("wall", [True, False])
def test_a_first_forward_that_trains_is_charged(wall: bool) -> None:
    assert played(wall=wall, forwards_s=(4.0, *[0.1] * 15)) == pytest.approx(4.0 - 0.305 - SLACK_S)
