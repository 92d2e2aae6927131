"""Decisions in words: every number is there, signs are right, and no single run goes unmarked."""

from __future__ import annotations

from scheduler.domain.decision import Discard, Effect, MeasureBaseline, Noise, Promote, Replicate, Retry
from scheduler.policy.explain import describe_noise, explain_decision

EFFECT = Effect(-0.0013, 0.0005, 0.0005, 2, 2, 0.99, -0.0011)


def test_a_promotion_says_what_to_expect() -> None:
    said = explain_decision(Promote("c0007", "c0001", EFFECT, "because"), "wider")
    assert said == (
        "promoted  c0007 wider  −0.0013 ± 0.0005 (2 runs vs 2)  P(better)=0.99  expect about −0.0011 after shrinkage"
    )


def test_a_single_run_says_so() -> None:
    effect = Effect(-0.0008, 0.0006, 0.0005, 1, 2, 0.89, -0.0005)
    assert "(1 run vs 2)  P(better)=0.89  one more run" in explain_decision(Replicate("c1", "c0", effect, ""), "x")


def test_noise_and_harm_are_told_apart() -> None:
    noise = Effect(0.0001, 0.0005, 0.0005, 3, 2, 0.42, 0.0)
    worse = Effect(0.0100, 0.0005, 0.0005, 1, 3, 0.0, 0.01)
    assert explain_decision(Discard("c1", "c0", noise, ""), "x").endswith("within noise")
    assert explain_decision(Discard("c1", "c0", worse, ""), "x").endswith("worse")
    assert "+0.0100" in explain_decision(Discard("c1", "c0", worse, ""), "x")


def test_a_failure_gives_its_reason() -> None:
    assert "oom: too wide" in explain_decision(Discard("c1", "c0", None, "oom: too wide"), "x")
    assert "one more try" in explain_decision(Retry("c1", "a repeat failed: one more try"), "x")
    assert "c0" in explain_decision(MeasureBaseline("c0", "needs three"), "baseline")


def test_the_noise_says_how_well_it_is_known() -> None:
    assert describe_noise(Noise(0.00052, 31)) == "noise sd 0.00052 (31 repeats)"
