"""Budgets and shares: the first limit ends a search, the claim's time belongs to it, and weights are met exactly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from scheduler.domain.search import SearchBudget
from scheduler.policy.budget import (
    FIRST_REST_S,
    LONGEST_REST_S,
    PROVEN_PATIENCE,
    Spent,
    claim_time_s,
    ideas_left,
    ideas_per_round,
    ideas_wanted,
    next_proposer,
    rest_s,
    time_left_s,
    why_over,
)

HOUR = 3600.0


@pytest.mark.parametrize(
    ("budget", "spent", "words"),
    [
        (SearchBudget(hours=8), Spent(active_s=8 * HOUR), "8.00 of 8 hours are spent"),
        (SearchBudget(runs=40), Spent(runs=33, running=7), "40 of 40 runs are finished or on a slot"),
        (SearchBudget(runs=1), Spent(runs=1), "1 of 1 run is finished"),
        (SearchBudget(rounds=3, ideas=4), Spent(ideas=12), "12 of 12 ideas are decided"),
        (SearchBudget(rounds=3), Spent(ideas=24), "24 of 24 ideas are decided"),
        (SearchBudget(target_bpb=1.7), Spent(baseline_mean=1.7, baseline_runs=2), "the baseline is at 1.7000 bpb"),
    ],
)
def test_every_limit_is_met_exactly_and_said_with_its_numbers(budget: SearchBudget, spent: Spent, words: str) -> None:
    assert words in (why_over(spent, budget, ideas_per_round(budget, 8)) or "")


@pytest.mark.parametrize(
    ("budget", "spent"),
    [
        (SearchBudget(hours=8), Spent(active_s=8 * HOUR - 1)),
        (SearchBudget(runs=40), Spent(runs=33, running=6)),
        (SearchBudget(runs=1), Spent(runs=3, owes_idea=True)),
        (SearchBudget(rounds=3, ideas=4), Spent(ideas=11)),
        (SearchBudget(rounds=3, ideas=4), Spent(ideas=12, undecided=1)),
        (SearchBudget(target_bpb=1.7), Spent(baseline_mean=1.6, baseline_runs=1)),
        (SearchBudget(target_bpb=1.7), Spent(baseline_mean=1.7001, baseline_runs=9)),
        (SearchBudget(target_bpb=1.7), Spent()),
        (SearchBudget(), Spent(active_s=1e9, runs=10**6, ideas=10**6)),
    ],
)
def test_one_short_of_a_limit_goes_on(budget: SearchBudget, spent: Spent) -> None:
    assert why_over(spent, budget, 4) is None


def test_how_many_ideas_are_left_counts_what_is_queued_and_is_one_at_least_at_first() -> None:
    budget = SearchBudget(runs=10, rounds=2, ideas=3)
    assert ideas_left(Spent(runs=4, running=2, queued=1), budget, 3) == 3
    assert ideas_left(Spent(runs=4, running=2, queued=1, ideas=5), budget, 3) == 1
    assert ideas_left(Spent(runs=10), SearchBudget(runs=10), 3) == 0
    assert ideas_left(Spent(runs=10, owes_idea=True), SearchBudget(runs=10), 3) == 1
    assert ideas_left(Spent(runs=10, ideas=1, owes_idea=True), SearchBudget(runs=10), 3) == 0, "it is queued"
    assert ideas_left(Spent(), SearchBudget(hours=1), 3) is None


def test_the_first_of_several_limits_ends_it() -> None:
    both = SearchBudget(hours=1, runs=10)
    assert "runs" in (why_over(Spent(active_s=60, runs=10), both, 8) or "")
    assert "hours" in (why_over(Spent(active_s=HOUR, runs=1), both, 8) or "")


def test_the_claim_belongs_to_the_hours_and_ideas_keep_half_of_them() -> None:
    budget, spent = SearchBudget(hours=8), Spent(active_s=7 * HOUR)
    assert why_over(spent, budget, 8, claim_s=HOUR - 1) is None
    assert "the rest is the claim's" in (why_over(spent, budget, 8, claim_s=HOUR) or "")
    assert why_over(Spent(active_s=3.9 * HOUR), budget, 8, claim_s=100 * HOUR) is None
    assert why_over(Spent(active_s=4 * HOUR), budget, 8, claim_s=100 * HOUR) is not None
    assert time_left_s(replace(spent, active_s=9 * HOUR), budget) == 0.0
    assert time_left_s(spent, SearchBudget(runs=3)) is None


@pytest.mark.parametrize(("slots", "rounds"), [(8, 2), (4, 2), (3, 3), (2, 4), (1, 8)])
def test_the_claim_takes_as_many_run_lengths_as_its_slots_need(slots: int, rounds: int) -> None:
    assert claim_time_s(4, slots, 330.0) == (2 + rounds) * 330.0
    assert claim_time_s(4, slots, 330.0, promoted=False) == 2 * 330.0
    assert claim_time_s(0, slots, 330.0) == 2 * 330.0


def test_rounds_are_of_as_many_ideas_as_slots_unless_someone_says() -> None:
    assert ideas_per_round(SearchBudget(rounds=2), 8) == 8 and ideas_per_round(SearchBudget(ideas=3), 8) == 3
    assert ideas_per_round(SearchBudget(), 0) == 1
    assert ideas_wanted(SearchBudget(rounds=2, ideas=3), 3) == 6 and ideas_wanted(SearchBudget(hours=1), 3) is None


def test_shares_follow_the_weights_at_every_moment() -> None:
    weights, ideas = {"agent": 3.0, "tpe": 1.0, "lines": 2.0}, Counter[str]()
    for asked in range(1, 601):
        name = next_proposer(weights, ideas, set(weights))
        assert name is not None
        ideas[name] += 1
        for other, weight in weights.items():
            assert abs(ideas[other] - asked * weight / 6) < 1.5
    assert ideas == {"agent": 300, "tpe": 100, "lines": 200}


def test_one_that_was_busy_catches_up_and_no_one_able_is_none() -> None:
    weights = {"slow": 1.0, "quick": 1.0}
    assert next_proposer(weights, {"slow": 2, "quick": 9}, {"slow", "quick"}) == "slow"
    assert next_proposer(weights, {"slow": 2, "quick": 9}, {"quick"}) == "quick"
    assert next_proposer(weights, {}, set()) is None
    assert next_proposer(weights, {}, {"slow", "quick"}) == "slow"


def test_rests_double_up_to_ten_minutes() -> None:
    rests = [rest_s(troubles) for troubles in range(1, 12)]
    assert rests[:4] == [FIRST_REST_S, 10.0, 20.0, 40.0] and max(rests) == rests[-1] == LONGEST_REST_S
    assert sum(rest_s(troubles) for troubles in range(1, PROVEN_PATIENCE)) > 5 * 3600  # a usage limit
