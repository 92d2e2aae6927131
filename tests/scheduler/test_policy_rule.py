"""Whole nights decided twice: by the policy, and by the rule written down a second time from its words.

Many slots, late results, crashes, unions, ports, halves and removals: every decision must be the same one. And under
the null the rule promotes as often as its bars imply.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import (
    PRESETS,
    Combine,
    Decision,
    Discard,
    GateSettings,
    MeasureBaseline,
    Promote,
    Replicate,
    Retry,
    Shelve,
)
from scheduler.policy.decide import decide
from tests.scheduler.night import FIRST_LINES, Night, World
from tests.scheduler.policy_kit import applied, baseline, board, finished, standing
from tests.scheduler.rule_twice import Act, Rule

SIGMA0 = 0.0005
WORDS = {Promote: "promote", Replicate: "repeat", Retry: "repeat", Shelve: "shelve"}
PLAYED = st.builds(
    dict,
    seed=st.integers(0, 2**32),
    gates=st.sampled_from(list(PRESETS.values())),
    ratio=st.floats(0.2, 4.0),
    slots=st.sampled_from([1, 2, 4, 8]),
    batch=st.booleans(),
)


def in_words(decision: Decision | None) -> Act | None:
    match decision:
        case None:
            return None
        case Combine(parts=parts, halving=halving):
            return "half" if halving else "merge", parts
        case MeasureBaseline(base_id=ref):
            return "measure", (ref,)
        case Discard(candidate_id=ref, effect=effect):
            return "drop" if effect else "fail", (ref,)
        case _:
            return WORDS[type(decision)], (decision.candidate_id,)


def world(seed: int, ideas: int, sigma: float) -> World:
    """Gains of a few times the noise, no-ops and harm; some with fewer lines of code."""
    rng = random.Random(seed)
    effects = [rng.choice([rng.gauss(0, sigma), -rng.expovariate(1 / sigma), 2 * sigma]) for _ in range(ideas)]
    return World(effects, sigma, crash_share=0.1, saves=[rng.choice([-2, 0, 3]) for _ in range(ideas)])


def play(seed: int, gates: GateSettings, ratio: float, slots: int, batch: bool) -> Night:
    return Night(world(seed, 30, ratio * SIGMA0), slots, seed, None if batch else slots, gates).play()


def decided_twice(night: Night) -> Counter[str]:
    """Follow the night; fails at the first decision that is not the rule's. Returns how many there were of each."""
    rule, words = Rule(night.gates, night.slots, FIRST_LINES), Counter[str]()
    new_ids = iter(merge.candidate_id for merge in night.board.merges)
    for entry in night.log:
        match entry.kind:
            case "idea":
                rule.add(entry.candidate_id, night.board.of(entry.candidate_id).code_lines)
            case "result":
                rule.result(entry.candidate_id, entry.score)
            case "cancelled":
                rule.cancelled(entry.candidate_id)
            case "decision":
                act = in_words(entry.decision)
                assert rule.due(entry.waiting) == act
                if act:
                    new = next(new_ids) if act[0] in ("merge", "half") else None
                    rule.carry_out(act, new or "", night.board.of(new).code_lines if new else 0)
                    words[act[0]] += 1
    return words


@settings(max_examples=60, deadline=None)
@given(PLAYED)
def test_every_decision_of_a_night_is_the_written_rules(played: dict[str, object]) -> None:
    decided_twice(play(**played))  # type: ignore[arg-type]


def test_the_nights_compared_hold_all_kinds_of_decisions() -> None:
    words = Counter[str]()
    for seed in range(2, 9, 2):
        for preset in ("default", "strict"):  # strict keeps more near-misses
            words += decided_twice(play(seed, PRESETS[preset], 1.0, 8, batch=True))
    assert words.keys() == {"promote", "drop", "repeat", "shelve", "merge", "half", "fail", "measure"}


def lowest_so_far(night: Night) -> list[str]:
    """What greedy means: every candidate runs once, and whoever has the lowest score yet is the baseline."""
    lowest, won = math.inf, []
    for entry in night.log:
        if entry.kind != "result" or entry.score is None or entry.score > lowest:
            continue
        if lowest < math.inf:
            won.append(entry.candidate_id)
        lowest = entry.score
    return won


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("seed", range(8))
def test_the_greedy_preset_is_the_lowest_score_so_far(seed: int, slots: int) -> None:
    """Once the first baseline has its score: what ran beside it is judged when it arrives, the best of them first."""
    first = replace(world(seed, 40, SIGMA0), crash_share=0.0, lost_share=0.0)
    night = Night(first, slots, seed, slots, PRESETS["greedy"]).play()
    promoted = [decision.candidate_id for _, decision in night.decisions if isinstance(decision, Promote)]
    won = lowest_so_far(night)
    assert promoted == won if slots == 1 else promoted[-1:] == won[-1:]
    assert all(s.n == 1 for s in night.board.standings)
    assert not night.board.merges and not night.board.in_state(CandidateState.SHELVED)


def implied_false_promotions(gates: GateSettings) -> float:
    """P(promoted) of a candidate as good as a baseline of three runs, σ known: boxes of a trivariate normal.

    z1, z2, z3 are the standardised differences after one, two and three runs.
    """
    n = np.arange(1, 4)
    scale = np.sqrt(1 / n + 1 / 3)
    shared = 1 / np.maximum.outer(n, n) + 1 / 3  # the means are of the same runs, and against the same baseline
    cov = shared / np.outer(scale, scale)
    now, again, promote, drop = (norm.ppf(p) for p in (gates.promote_now, gates.repeat_from, gates.promote, gates.drop))

    def box(low: list[float], high: list[float]) -> float:
        k = len(low)
        return float(multivariate_normal(cov=cov[:k, :k]).cdf(np.array(high), lower_limit=np.array(low)))

    first = float(norm.sf(now))
    second = box([again, promote], [now, np.inf])
    third = box([again, drop, promote], [now, promote, np.inf])
    return first + second + third


def null_promotion(rng: random.Random, gates: GateSettings) -> bool:
    """One candidate of no effect against a fresh baseline; the prior outweighs the data, so σ is known."""
    now = board(baseline(*(rng.gauss(1, SIGMA0) for _ in range(3))), standing(2, pending_runs=1), gates=gates)
    while now.of("c0002").pending_runs:
        now = finished(now, "c0002", rng.gauss(1, SIGMA0))
        while decision := decide(now):
            if isinstance(decision, Promote):
                return True
            now = applied(now, decision)
    assert now.of("c0002").state in (CandidateState.DISCARDED, CandidateState.SHELVED)
    return False


@pytest.mark.parametrize("preset", ["default", "bold", "strict"])
def test_false_promotions_are_as_rare_as_the_bars_imply(preset: str) -> None:
    gates, rng, nights = replace(PRESETS[preset], prior_df=1e9), random.Random(7), 3000
    share = sum(null_promotion(rng, gates) for _ in range(nights)) / nights
    expected = implied_false_promotions(gates)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / nights)
