"""Decisions in words: every number is there, signs are right, bars are not blurred, no single run goes unmarked."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.decision import (
    PRESETS,
    Claim,
    Combine,
    Discard,
    Effect,
    MeasureBaseline,
    Noise,
    Promote,
    Replicate,
    Retry,
    Shelve,
)
from scheduler.domain.text import signed
from scheduler.policy.explain import describe_claim, describe_effect, explain_decision
from scheduler.policy.gates import judge_candidate
from scheduler.policy.stats import effect_of
from tests.scheduler.policy_kit import baseline, standing

EFFECT = Effect(-0.0130, 0.0050, 0.0050, 2, 3, 0.9951, -0.0110)


def test_a_promotion_says_what_to_expect() -> None:
    said = explain_decision(Promote("c0007", "c0001", EFFECT, "because"), "wider-mlp")
    assert said == (
        "promoted  c0007 wider-mlp  −0.0130 ± 0.0050 (2 runs vs 3)  P(better)=0.99  "
        "expect about −0.0110 after shrinkage"
    )


def test_a_repeat_asks_for_one_more_run() -> None:
    effect = Effect(-0.0008, 0.0006, 0.0005, 1, 2, 0.89, -0.0005)
    said = explain_decision(Replicate("c0008", "c0001", effect, ""), "x")
    assert said == (
        "repeat    c0008 x  −0.0008 ± 0.0006 (1 run vs 2)  P(better)=0.89  "
        "expect about −0.0005 after shrinkage; one more run"
    )


@pytest.mark.parametrize(
    ("diff", "verdict"),
    [(-0.0001, "within noise"), (0.0010, "within noise"), (0.0100, "worse"), (-0.01, "suspect, all of them")],
)
def test_noise_harm_and_doubt_are_distinguished(diff: float, verdict: str) -> None:
    effect = Effect(diff, 0.0005, 0.0005, 3, 2, 0.42, 0.0)
    said = explain_decision(Discard("c0009", "c0001", effect, "suspect, all of them"), "x")
    effect_said = f"{signed(diff)} ± 0.0005 (3 runs vs 2)  P(better)=0.42  expect about 0.0000 after shrinkage"
    assert said == f"dropped   c0009 x  {effect_said}; {verdict}"


def test_a_failure_gives_its_reason_in_one_line() -> None:
    said = explain_decision(Discard("c0002", "c0001", None, "crash: exit code 1:\n  RuntimeError: no"), "x")
    assert said == "failed    c0002 x  crash: exit code 1: RuntimeError: no"
    assert "\n" not in explain_decision(Retry("c0002", "its repeat failed (oom:\nwide): one more try"), "x")


def test_a_near_miss_says_that_it_is_kept() -> None:
    effect = Effect(-0.0003, 0.0006, 0.0005, 1, 3, 0.71, -0.0001)
    said = explain_decision(Shelve("c0005", "c0001", effect, "a near-miss\nof two lines"), "x")
    assert said == (
        "shelved   c0005 x  −0.0003 ± 0.0006 (1 run vs 3)  P(better)=0.71  "
        "expect about −0.0001 after shrinkage; kept for a union"
    )


@pytest.mark.parametrize(("parts", "kind"), [(("c0005",), "port     "), (("c0005", "c0007"), "union    ")])
def test_a_merge_names_its_parts_and_what_it_hopes_for(parts: tuple[str, ...], kind: str) -> None:
    said = explain_decision(Combine("c0009", parts, 0, -0.0021, "left\nbehind"), "x")
    assert said == f"{kind} {' + '.join(parts)} onto c0009  predicted −0.0021  left behind"


def test_a_claim_gives_both_means_and_how_often_they_were_measured() -> None:
    claim = Claim("c0001", "c0009", (1.0030, 1.0034), (0.9740, 0.9742), -0.0291, 0.0008, 12, -0.031, -0.027)
    assert describe_claim(claim) == "1.0032 → 0.9741, −0.0291 ± 0.0008 (2 + 2 runs)"
    assert describe_claim(Claim("c0001", "c0001", (), (), 0.0, 0.0, 4, 0.0, 0.0)) == "nothing to claim"


def test_the_baselines_own_runs_are_named() -> None:
    said = explain_decision(MeasureBaseline("c0001", "a baseline is measured 2 times, 1 so far"), "start")
    assert said == "baseline  c0001 start  one more run: a baseline is measured 2 times, 1 so far"


@pytest.mark.parametrize(
    ("bpb", "said"),
    [(0.0130, "+0.0130"), (-0.0130, "−0.0130"), (-0.00004, "0.0000"), (0.0, "0.0000"), (-1.0, "−1.0000")],
)
def test_signs_are_written_and_zero_has_none(bpb: float, said: str) -> None:
    assert signed(bpb) == said


@given(st.floats(0, 1), st.sampled_from([0.30, 0.70, 0.80, 0.90, 0.95, 0.98]))
def test_a_probability_never_reads_as_past_a_bar_it_missed(p: float, bar: float) -> None:
    shown = float(re.findall(r"P\(better\)=(\d\.\d\d)", describe_effect(Effect(-0.1, 0.1, 0.1, 1, 2, p, -0.1)))[0])
    assert (shown >= bar) == (p >= bar)
    assert 0 <= p - shown <= 0.01
    assert shown < 1 or p == 1


@given(
    st.lists(st.floats(0.9, 1.1), min_size=1, max_size=4),
    st.lists(st.floats(0.9, 1.1), min_size=1, max_size=4),
    st.sampled_from(list(PRESETS.values())),
)
def test_every_sentence_holds_the_numbers_it_was_decided_from(ours: list[float], theirs: list[float], gates) -> None:
    candidate, base, noise = standing(2, *ours), baseline(*theirs), Noise(0.01, 5)
    effect = effect_of(candidate, base, noise)
    said = explain_decision(judge_candidate(candidate, base, noise, gates), candidate.name)
    runs = f"({len(ours)} run{'s' if len(ours) > 1 else ''} vs {len(theirs)})"
    assert f"c0002 idea-2  {signed(effect.diff)} ± {effect.se:.4f} {runs}  P(better)=" in said
    assert "\n" not in said
