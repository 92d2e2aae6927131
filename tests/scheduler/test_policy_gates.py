"""The two gates: a table of examples worked by hand, and properties against scipy's normal distribution."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import PRESETS, Decision, Discard, Noise, Promote, Replicate, Shelve
from scheduler.domain.text import probability
from scheduler.policy.decide import decide
from scheduler.policy.gates import MAX_FAILED, judge_candidate, raised
from scheduler.policy.stats import effect_of, lab_noise
from tests.scheduler.policy_kit import baseline, board, standing

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


# Noise 1 mbpb, known; the baseline has three runs at 1.0000. `mbpb`: the candidate's mean minus the baseline's. The
# standard error is 1.1547, 0.9129 and 0.8165 mbpb after one, two and three runs; z and P are from a printed table.
WORKED = [
    # preset, mbpb, runs, state, verdict        z       P(better)
    ("default", -2.4, 1, "open", "promote"),  #  2.078  0.9812 ≥ 0.98: one run is enough
    ("default", -2.3, 1, "open", "repeat"),  #  1.992  0.9768 < 0.98 and ≥ 0.80
    ("default", -1.0, 1, "open", "repeat"),  #  0.866  0.8068 ≥ 0.80
    ("default", -0.9, 1, "open", "drop"),  #  0.779  0.7821 < 0.80
    ("default", -0.9, 1, "contender", "repeat"),  #  0.779  0.7821 ≥ 0.30: it passed before
    ("default", 0.7, 1, "contender", "drop"),  # −0.606  0.2722 < 0.30
    ("default", -1.2, 2, "contender", "promote"),  #  1.314  0.9057 ≥ 0.90 over two runs
    ("default", -1.1, 2, "contender", "repeat"),  #  1.205  0.8859 < 0.90 and ≥ 0.30
    ("default", 0.4, 2, "contender", "repeat"),  # −0.438  0.3306 ≥ 0.30
    ("default", 0.5, 2, "contender", "drop"),  # −0.548  0.2919 < 0.30
    ("default", -1.1, 3, "contender", "promote"),  #  1.347  0.9110 ≥ 0.90
    ("default", -1.0, 3, "contender", "shelve"),  #  1.225  0.8897 < 0.90, ≥ 0.65 and three runs are the most
    ("default", -0.4, 3, "contender", "shelve"),  #  0.490  0.6879 ≥ 0.65
    ("default", -0.3, 3, "contender", "drop"),  #  0.367  0.6433 < 0.65
    ("bold", -1.5, 1, "open", "promote"),  #  1.299  0.9030 ≥ 0.90
    ("bold", -1.4, 1, "open", "repeat"),  #  1.212  0.8873 < 0.90 and ≥ 0.70
    ("bold", -0.7, 1, "open", "repeat"),  #  0.606  0.7278 ≥ 0.70
    ("bold", -0.6, 1, "open", "drop"),  #  0.520  0.6983 < 0.70
    ("bold", -0.5, 2, "contender", "promote"),  #  0.548  0.7081 ≥ 0.70
    ("strict", -2.4, 1, "open", "promote"),  #  2.078  0.9812 ≥ 0.98
    ("strict", -1.6, 2, "contender", "promote"),  #  1.753  0.9602 ≥ 0.95
    ("strict", -1.4, 2, "contender", "repeat"),  #  1.534  0.9374 < 0.95
    ("strict", -1.3, 3, "contender", "shelve"),  #  1.592  0.9443 < 0.95 and three runs are the most
    ("greedy", -0.1, 1, "open", "promote"),  #  0.087  0.5345 ≥ 0.50
    ("greedy", 0.1, 1, "open", "drop"),  # −0.087  0.4655 < 0.50
]
VERDICTS = {"promote": Promote, "repeat": Replicate, "drop": Discard, "shelve": Shelve}


@pytest.mark.parametrize(("preset", "mbpb", "runs", "state", "verdict"), WORKED)
def test_a_worked_example_ends_as_it_does_by_hand(
    preset: str, mbpb: float, runs: int, state: str, verdict: str
) -> None:
    candidate = standing(2, *[1.0 + mbpb / 1000] * runs, state=CandidateState(state))
    decided = judge_candidate(candidate, baseline(1.0, 1.0, 1.0), Noise(0.001, 100), PRESETS[preset])
    assert type(decided) is VERDICTS[verdict]


# The same for a removal of five lines, which may be worse by half a σ: P(not worse) = Φ((0.5 − mbpb) / se).
REMOVALS = [
    # mbpb, runs, verdict    z       P(not worse)
    (-0.48, 1, "repeat"),  # 0.849  0.8020 ≥ 0.80
    (-0.46, 1, "drop"),  #   0.831  0.7971 < 0.80
    (-0.56, 3, "promote"),  # 1.298  0.9029 ≥ 0.90 over three runs, although P(better) is 0.7536
    (-0.54, 3, "shelve"),  # 1.274  0.8986 < 0.90, and P(better) 0.7458 ≥ 0.65
    (-0.18, 3, "drop"),  #   0.833  0.7975 < 0.90, and P(better) 0.5872 < 0.65
    (0.48, 2, "repeat"),  #  0.022  0.5087 ≥ 0.50, although P(better) 0.2995 < 0.30
    (0.52, 2, "drop"),  #   −0.022  0.4913 < 0.50
]


@pytest.mark.parametrize(("mbpb", "runs", "verdict"), REMOVALS)
def test_a_worked_removal_ends_as_it_does_by_hand(mbpb: float, runs: int, verdict: str) -> None:
    shorter = standing(2, *[1.0 + mbpb / 1000] * runs, state=CandidateState.CONTENDER, code_lines=95)
    first_look = replace(shorter, state=CandidateState.OPEN) if runs == 1 else shorter
    decided = judge_candidate(first_look, baseline(1.0, 1.0, 1.0, code_lines=100), Noise(0.001, 100), GATES)
    assert type(decided) is VERDICTS[verdict]


@pytest.mark.parametrize(
    ("p", "n", "verdict"),
    [
        (0.981, 1, Promote),
        (0.979, 1, Replicate),
        (0.801, 1, Replicate),
        (0.799, 1, Discard),
        (0.10, 1, Discard),
        (0.901, 2, Promote),
        (0.899, 2, Replicate),
        (0.301, 2, Replicate),
        (0.299, 2, Discard),
        (0.901, 3, Promote),
        (0.899, 3, Shelve),
        (0.651, 3, Shelve),
        (0.649, 3, Discard),
    ],
)
def test_each_gate_stands_where_the_rule_puts_it(p: float, n: int, verdict: type) -> None:
    assert type(judge_candidate(candidate_at(p, n), baseline(1.0, 1.0, 1.0), NOISE, GATES)) is verdict


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_suspect_score_never_promotes_by_itself(preset) -> None:
    """No one repeats under greedy, so there it ends the candidate."""
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
def test_no_candidate_is_run_without_end(scores: list[float], failed: int, suspects: int, state) -> None:
    candidate = standing(2, *scores, failed_runs=failed, suspect_scores=min(suspects, len(scores)), state=state)
    if isinstance(judge_candidate(candidate, baseline(1.0, 1.0), NOISE, GATES), Replicate):
        assert candidate.n < GATES.max_runs and candidate.failed_runs < MAX_FAILED


@given(SCORES, SCORES)
def test_every_verdict_gives_its_number_and_its_effect(ours: list[float], theirs: list[float]) -> None:
    candidate, base = standing(2, *ours), baseline(*theirs)
    verdict = judge_candidate(candidate, base, NOISE, GATES)
    assert verdict.effect == effect_of(candidate, base, NOISE)
    assert f"P(better) {probability(verdict.effect.p_better, 3)}" in verdict.reason


@given(
    st.sampled_from([0.0, 0.30, 0.50, 0.65, 0.70, 0.80, 0.90, 0.95, 0.98]),
    st.floats(-1e-3, 1e-3) | st.floats(-1e-15, 1e-15),
    st.integers(1, 3),
    st.sampled_from(list(CandidateState)[:2]),
    st.booleans(),
    st.sampled_from([*PRESETS.values(), replace(GATES, simpler_margin=0.1, promote=0.95)]),
)
def test_no_reason_contradicts_itself(bar: float, by: float, n: int, state, late: bool, gates) -> None:
    """A P just below a bar is not rounded up to it: never "0.800 < 0.80"."""
    p = min(max(bar + by, 1e-4), 1 - 1e-4)
    candidate = candidate_at(p, n, state=state, code_lines=90)
    own = baseline(1.0, 1.0, 1.0, code_lines=100)
    moved = replace(own, candidate_id="c0009", scores=(0.99, 0.99), code_lines=100)
    reason = judge_candidate(candidate, moved if late else own, NOISE, gates, own if late else None).reason
    for shown, sign, against in re.findall(r"\) (\d\.\d+)[^≥<]* ([≥<]) (\d\.\d+)", reason):
        assert (float(shown) >= float(against)) == (sign == "≥"), reason


def test_a_probability_is_cut_and_never_rounded_up() -> None:
    assert [probability(p) for p in (0.29, 0.57, 0.79950, 0.979999, 0.98, 1.0, 1e-9)] == [
        *("0.29", "0.57", "0.79", "0.97", "0.98", "1.00", "0.00")
    ]
    just_below = judge_candidate(candidate_at(0.79950), baseline(1.0, 1.0, 1.0), NOISE, GATES)
    assert just_below.reason == "P(better) 0.799 < 0.80 after 1 run: not worth another"


def test_bold_and_strict_move_the_bars_their_way() -> None:
    base = baseline(1.0, 1.0, 1.0)
    assert isinstance(judge_candidate(candidate_at(0.92), base, NOISE, PRESETS["bold"]), Promote)
    assert isinstance(judge_candidate(candidate_at(0.92, 2), base, NOISE, PRESETS["default"]), Promote)
    assert isinstance(judge_candidate(candidate_at(0.92, 2), base, NOISE, PRESETS["strict"]), Replicate)


def test_greedy_is_greedy_on_any_machine() -> None:
    drifting = replace(NOISE, drift=NOISE.sigma, p_unsteady=1.0)
    assert isinstance(judge_candidate(candidate_at(0.51), baseline(1.0), drifting, PRESETS["greedy"]), Promote)


@pytest.mark.parametrize(
    ("trials", "now", "over_repeats"), [(0, 0.98, 0.90), (40, 0.99, 0.95), (80, 1 - 0.02 / 3, 1 - 0.1 / 3)]
)
def test_the_doubt_that_the_bars_allow_is_halved_by_so_many_trials(
    trials: int, now: float, over_repeats: float
) -> None:
    bars = raised(GATES, trials)
    assert (bars.promote_now, bars.promote) == pytest.approx((now, over_repeats))
    assert replace(bars, promote_now=GATES.promote_now, promote=GATES.promote) == GATES
    assert raised(PRESETS["greedy"], trials) is PRESETS["greedy"]


def test_a_lab_promotes_by_the_raised_bar_and_says_it() -> None:
    base = baseline(1.0, 1.0, 1.0)
    sigma = lab_noise(board(base)).sigma

    def decided(p: float, tried: int) -> Decision | None:
        scored = standing(2, 1.0 - norm.ppf(p) * sigma * math.sqrt(4 / 3))
        return decide(replace(board(base, scored), left_out=tried - 1, gates=replace(GATES, baseline_every=0)))

    assert isinstance(decided(0.985, 1), Promote)
    assert isinstance(decided(0.985, 39), Replicate)
    promoted = decided(0.9945, 80)
    assert isinstance(promoted, Promote) and "0.994 ≥ 0.993" in promoted.reason
