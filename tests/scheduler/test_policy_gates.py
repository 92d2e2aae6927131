"""The two gates against scipy's normal distribution and the rule's words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import PRESETS, Discard, Noise, Promote, Replicate, Shelve
from scheduler.policy.gates import MAX_FAILED, effect_of, judge_candidate
from tests.scheduler.policy_kit import baseline, standing

GATES = PRESETS["default"]
SCORE = st.floats(0.5, 3.0)
NOISE = Noise(0.001, 6)


@given(st.lists(SCORE, min_size=1, max_size=4), st.lists(SCORE, min_size=1, max_size=4), st.floats(1e-4, 0.1))
def test_the_effect_is_what_the_formula_says(ours: list[float], theirs: list[float], sigma: float) -> None:
    effect = effect_of(standing(2, *ours), baseline(*theirs), Noise(sigma, 3))
    diff = sum(ours) / len(ours) - sum(theirs) / len(theirs)
    se = sigma * math.sqrt(1 / len(ours) + 1 / len(theirs))
    assert effect.diff == pytest.approx(diff)
    assert effect.p_better == pytest.approx(norm.cdf(-diff / se), abs=1e-9)
    assert abs(effect.shrunken) <= abs(effect.diff)
    assert effect.shrunken * effect.diff >= 0


@given(SCORE, st.floats(0, 1), st.integers(1, 3))
def test_a_better_score_is_never_less_probable(score: float, worse_by: float, n: int) -> None:
    base = baseline(1.5, 1.5, 1.5)
    better, worse = standing(2, *[score] * n), standing(3, *[score + worse_by] * n)
    assert effect_of(better, base, NOISE).p_better >= effect_of(worse, base, NOISE).p_better


def candidate_at(p: float, n: int = 1, **more: object):
    """A candidate with n equal scores whose P(better) against three runs of 1.0 is p."""
    se = NOISE.sigma * math.sqrt(1 / n + 1 / 3)
    return standing(2, *[1.0 - norm.ppf(p) * se] * n, **more)


@pytest.mark.parametrize(
    ("p", "n", "verdict"),
    [
        (0.981, 1, Promote),
        (0.979, 1, Replicate),
        (0.801, 1, Replicate),
        (0.799, 1, Discard),
        (0.10, 1, Discard),
        (0.801, 2, Promote),
        (0.799, 2, Replicate),
        (0.301, 2, Replicate),
        (0.299, 2, Discard),
        (0.801, 3, Promote),
        (0.799, 3, Shelve),
        (0.651, 3, Shelve),
        (0.649, 3, Discard),
    ],
)
def test_each_gate_stands_where_the_rule_puts_it(p: float, n: int, verdict: type) -> None:
    assert type(judge_candidate(candidate_at(p, n), baseline(1.0, 1.0, 1.0), NOISE, GATES)) is verdict


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_suspect_score_never_promotes_by_itself(preset) -> None:
    """Nobody repeats under greedy, so there it ends the candidate."""
    doubtful = candidate_at(0.99999, 1, suspect_scores=1)
    once_more = Discard if preset.max_runs == 1 else Replicate
    assert isinstance(judge_candidate(doubtful, baseline(1.0, 1.0, 1.0), NOISE, preset), once_more)
    confirmed = candidate_at(0.99999, 2, suspect_scores=1)
    assert isinstance(judge_candidate(confirmed, baseline(1.0, 1.0, 1.0), NOISE, preset), Promote)


def test_a_candidate_that_stays_suspect_is_dropped_in_the_end_and_no_near_miss() -> None:
    suspect = candidate_at(0.99999, 3, suspect_scores=3)
    assert isinstance(judge_candidate(suspect, baseline(1.0, 1.0, 1.0), NOISE, GATES), Discard)


def test_a_near_miss_is_one_without_its_suspect_scores() -> None:
    base, ordinary = baseline(1.0, 1.0, 1.0), 1.0
    spent = standing(2, 0.5, ordinary, ordinary, suspect_scores=1, state=CandidateState.CONTENDER)
    assert isinstance(judge_candidate(spent, base, NOISE, GATES), Discard)
    close = standing(2, 0.5, 0.9995, 0.9995, suspect_scores=1, state=CandidateState.CONTENDER)
    assert isinstance(judge_candidate(close, base, NOISE, GATES), Shelve)


SCORES = st.lists(st.floats(0.95, 1.05), min_size=1, max_size=4)


@given(SCORES, st.integers(0, 4), st.sampled_from(list(PRESETS.values())))
def test_what_promotes_with_suspects_promotes_without_the_best_of_them(
    scores: list[float], suspects: int, preset
) -> None:
    """Whichever of the scores were suspect, at worst the lowest: the others carry the promotion alone."""
    suspects = min(suspects, len(scores))
    base = baseline(1.0, 1.0, 1.0)
    verdict = judge_candidate(standing(2, *scores, suspect_scores=suspects), base, NOISE, preset)
    if isinstance(verdict, Promote):
        alone = standing(2, *sorted(scores)[suspects:])
        assert isinstance(judge_candidate(alone, base, NOISE, preset), Promote)


def test_one_wonderful_suspect_score_does_not_carry_an_ordinary_one() -> None:
    doubtful = standing(2, 0.5, 1.0, suspect_scores=1, state=CandidateState.CONTENDER)
    verdict = judge_candidate(doubtful, baseline(1.0, 1.0, 1.0), NOISE, GATES)
    assert isinstance(verdict, Replicate) and "suspect" in verdict.reason


def test_a_first_look_asks_for_more_than_a_look_at_a_contender() -> None:
    """A contender whose repeat was lost keeps its place although the noise has grown a little since."""
    base = baseline(1.0, 1.0, 1.0)
    assert isinstance(judge_candidate(candidate_at(0.7), base, NOISE, GATES), Discard)
    contender = candidate_at(0.7, state=CandidateState.CONTENDER)
    assert isinstance(judge_candidate(contender, base, NOISE, GATES), Replicate)


@pytest.mark.parametrize(
    ("failed", "n", "verdict"),
    [(1, 1, Replicate), (1, 2, Replicate), (2, 1, Discard), (2, 2, Shelve), (1, 3, Shelve)],
)
def test_the_second_failed_run_ends_a_contender_and_the_first_costs_it_none(failed: int, n: int, verdict: type) -> None:
    p = 0.9 if n == 1 else 0.7
    tired = candidate_at(p, n, failed_runs=failed, state=CandidateState.CONTENDER)
    assert type(judge_candidate(tired, baseline(1.0, 1.0, 1.0), NOISE, GATES)) is verdict


@given(SCORES, st.integers(0, 3), st.integers(0, 4), st.sampled_from([CandidateState.OPEN, CandidateState.CONTENDER]))
def test_no_candidate_is_run_for_ever(scores: list[float], failed: int, suspects: int, state) -> None:
    candidate = standing(2, *scores, failed_runs=failed, suspect_scores=min(suspects, len(scores)), state=state)
    if isinstance(judge_candidate(candidate, baseline(1.0, 1.0), NOISE, GATES), Replicate):
        assert candidate.n < GATES.max_runs and candidate.failed_runs < MAX_FAILED


@given(SCORES, SCORES)
def test_every_verdict_gives_its_number_and_its_effect(ours: list[float], theirs: list[float]) -> None:
    candidate, base = standing(2, *ours), baseline(*theirs)
    verdict = judge_candidate(candidate, base, NOISE, GATES)
    assert verdict.effect == effect_of(candidate, base, NOISE)
    assert f"P(better) {verdict.effect.p_better:.3f}" in verdict.reason


def test_bold_and_strict_move_the_bars_their_way() -> None:
    base = baseline(1.0, 1.0, 1.0)
    assert isinstance(judge_candidate(candidate_at(0.92), base, NOISE, PRESETS["bold"]), Promote)
    assert isinstance(judge_candidate(candidate_at(0.92, 2), base, NOISE, PRESETS["default"]), Promote)
    assert isinstance(judge_candidate(candidate_at(0.92, 2), base, NOISE, PRESETS["strict"]), Replicate)
