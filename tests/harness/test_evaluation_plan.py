"""Plans of an evaluation: every validation row once, replays in their slot, nothing shows by its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.judge.evaluation_plan import CellKind, EvaluationPlan, forward_rows_of, plan_evaluation

ROWS = st.integers(1, 300)


def rows_of(count: int, tokens: int, seed: int = 0, vocab_size: int = 50) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, vocab_size, (count, tokens + 1)).astype(np.uint16)


def planned(rows: int, batch_size: int, tokens: int = 32, seed: int = 0, held: int = 40) -> EvaluationPlan:
    val, holdout = rows_of(rows, tokens), rows_of(held, tokens, 1)
    width = forward_rows_of(batch_size, rows)
    return plan_evaluation(val, holdout, width, np.random.default_rng(seed))


@settings(max_examples=60)
@given(ROWS, st.integers(1, 1 << 31), st.integers(2, 70), st.integers(1, 30), st.integers(0, 1 << 30))
def test_every_validation_row_is_served_once_and_scored(
    rows: int, batch_size: int, tokens: int, held: int, seed: int
) -> None:
    plan = planned(rows, batch_size, tokens, seed, held)
    cells = plan.cells(CellKind.VAL)
    assert sorted(plan.source[cells]) == list(range(rows))
    np.testing.assert_array_equal(plan.rows[cells], rows_of(rows, tokens)[plan.source[cells]])
    assert len(plan.rows) == plan.forwards * plan.forward_rows


@given(ROWS, st.integers(1, 1 << 31))
def test_no_forward_sees_a_large_part_of_the_rows(rows: int, batch_size: int) -> None:
    assert 1 <= forward_rows_of(batch_size, rows) <= min(rows, max(16, rows // 16))


@pytest.mark.parametrize("rows", [256, 512, 1000, 10_240])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 10**6])
def test_at_most_a_tenth_more_rows_are_served(rows: int, batch_size: int) -> None:
    plan = planned(rows, batch_size, tokens=16, held=rows // 10)
    assert rows * 1.03 < len(plan.rows) <= rows * 1.1


@settings(max_examples=60)
@given(st.integers(40, 300), st.integers(1, 64), st.integers(0, 1 << 30))
def test_replays_come_later_than_their_source(rows: int, batch_size: int, seed: int) -> None:
    plan = planned(rows, batch_size, seed=seed)
    width = plan.forward_rows
    for kind in (CellKind.CONTROL, CellKind.PERTURBED, CellKind.SHIFTED):
        assert len(plan.cells(kind))
        for cell in plan.cells(kind):
            source, moved = plan.source[cell], plan.moved[cell]
            before, now = plan.rows[source], plan.rows[cell]
            assert plan.kind[source] == CellKind.VAL and source // width < cell // width
            if kind is CellKind.SHIFTED:
                np.testing.assert_array_equal(now[:-moved], before[moved:])
                continue
            assert source % width == cell % width, "the same slot: rounding may depend on it"
            if kind is CellKind.CONTROL:
                np.testing.assert_array_equal(now, before)
            else:
                assert 1 <= moved < len(now) - 1 and now[moved] != before[moved]
                np.testing.assert_array_equal(now[:moved], before[:moved])
    sources = plan.source[np.isin(plan.kind, (CellKind.CONTROL, CellKind.PERTURBED, CellKind.SHIFTED))]
    assert len(set(sources.tolist())) == len(sources)


def test_the_cuts_reach_every_position_and_the_borders_of_blocks() -> None:
    plans = [planned(512, 16, tokens=64, seed=seed) for seed in range(60)]
    cuts = np.concatenate([plan.moved[plan.cells(CellKind.PERTURBED)] for plan in plans])
    assert set(range(4, 64)) <= set(cuts.tolist())
    assert np.isin(cuts, (15, 16, 17, 31, 32, 33, 47, 48, 49)).mean() > 0.4


def test_the_place_of_a_row_says_nothing_of_the_row() -> None:
    """Over many draws every validation row is served in the middle, on average, replayed or not."""
    middle = [np.zeros(200) for _ in range(2)]
    draws = 400
    for seed in range(draws):
        plan = planned(200, 8, tokens=8, seed=seed)
        cells = plan.cells(CellKind.VAL)
        middle[0][plan.source[cells]] += cells / len(plan.rows)
    spread = middle[0] / draws - (middle[0] / draws).mean()
    assert abs(spread).max() < 5 * 0.29 / draws**0.5


def test_splices_lie_in_the_second_half_and_both_continuations_come_from_the_same_places() -> None:
    tokens, seen = 64, []
    for seed in range(40):
        plan = planned(200, 8, tokens=tokens, seed=seed, held=100)
        for cell, splices in plan.splices.items():
            assert (splices[:, 0] >= tokens // 2).all()
            shown = plan.rows[cell, splices[:, 0]]
            assert (shown != splices[:, 1]).all()
            seen.append(np.column_stack([shown, splices[:, 1]]))
    pairs = np.concatenate(seen).astype(np.int64)
    assert len(pairs) > 2000
    greater = (pairs[:, 0] > pairs[:, 1]).mean()
    assert abs(greater - 0.5) < 5 * 0.5 / len(pairs) ** 0.5, "which one is shown is the toss of a coin"


def test_splices_follow_the_two_tokens_before_them() -> None:
    """In a text of few words every splice fits what comes before it somewhere in the holdout."""
    val, holdout = (rows_of(200, 64, seed, vocab_size=5) for seed in (0, 1))
    known = {tuple(row[t : t + 3]) for row in holdout.tolist() for t in range(len(row) - 2)}
    plan = plan_evaluation(val, holdout, 8, np.random.default_rng(0))
    for cell, splices in plan.splices.items():
        for at, other in splices.tolist():
            first, second, shown = plan.rows[cell, at - 2 : at + 1].tolist()
            assert {(first, second, shown), (first, second, other)} <= known


def test_two_plans_differ() -> None:
    assert not np.array_equal(planned(100, 8, seed=1).rows, planned(100, 8, seed=2).rows)
