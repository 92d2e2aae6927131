"""Whole simulations: every merge is the one of the rule written down twice, greedy is the lowest score so far, and
under the null the rule promotes as often as its bars imply.

Many slots, results of older baselines, crashes, unions, ports and halves. The gates' own table is test_policy_gates'.
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

from benchmarks.simulation.engine import Simulation, Step
from benchmarks.simulation.transitions import applied, finished
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
    Rule,
    Shelve,
)
from scheduler.policy.decide import decide, promotion_waits_until
from scheduler.policy.siblings import round_goes_on
from tests.scheduler.policy_kit import ListedWorld, baseline, board, simulate, standing
from tests.scheduler.rule_twice import Act
from tests.scheduler.rule_twice import Rule as WrittenRule

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


def in_words(decision: Decision) -> Act:
    match decision:
        case Combine(parts=parts, halving=halving):
            return "half" if halving else "merge", parts
        case MeasureBaseline(base_id=ref):
            return "measure", (ref,)
        case Discard(candidate_id=ref, effect=effect):
            return "drop" if effect else "fail", (ref,)
        case _:
            return WORDS[type(decision)], (decision.candidate_id,)


def world(seed: int, ideas: int, sigma: float, **more: float) -> ListedWorld:
    """Gains of a few times the noise, no-ops and harm; some with fewer lines of code."""
    rng = random.Random(seed)
    effects = [rng.choice([rng.gauss(0, sigma), -rng.expovariate(1 / sigma), 2 * sigma]) for _ in range(ideas)]
    saves = [rng.choice([-2, 0, 3]) for _ in range(ideas)]
    return ListedWorld(effects, seed, sigma, **{"crash_share": 0.1, **more}, saves=saves)


def play(seed: int, gates: GateSettings, ratio: float, slots: int, batch: bool) -> Simulation:
    """On a machine that cannot be seen to drift: the written rule's arithmetic is that of a steady one."""
    return simulate(world(seed, 30, ratio * SIGMA0), slots, None if batch else slots, gates, blind=True)


def check_merge(rule: WrittenRule, step: Step) -> None:
    """That this decision is the merge that is due, or that none is, or that it is not the time for one."""
    act = in_words(step.decision) if step.decision else None
    if step.kind == "union":
        assert act == rule.near_misses()
    elif isinstance(step.decision, MeasureBaseline | Promote) or (act and act[0] == "fail"):
        return  # goes before any merge
    elif isinstance(step.decision, Combine) and step.decision.rule is Rule.STALE_BASELINE:
        assert rule.due() is None and rule.versions[act[1][0]].state == "open"  # the gates' own
    elif step.decision or is_comparable(step):
        due = rule.due()
        if due and due[0] == "settle":
            assert act and act[1] == due[1] and act[0] in ("shelve", "drop")
        else:
            assert due == (act if isinstance(step.decision, Combine) else None)


def is_comparable(step: Step) -> bool:
    assert step.lab is not None
    base, waits = step.lab.baseline, round_goes_on(step.lab) or promotion_waits_until(step.lab) is not None
    return base.n > 0 and (not step.lab.first_baseline or not base.pending_runs) and not waits


def merged_twice(played: Simulation) -> Counter[str]:
    """Follow the simulation; fails at the first merge that is not the rule's. Returns how many decisions of each."""
    rule, words = WrittenRule(played.gates, played.slots), Counter[str]()
    new_ids = iter(merge.candidate_id for merge in played.lab.merges)
    for step in played.log:
        if step.kind == "idea":
            rule.add(step.candidate_id)
        elif step.kind == "result":
            rule.result(step.candidate_id, step.score)
        elif step.kind in ("decision", "union"):
            check_merge(rule, step)
            if step.decision:
                act = in_words(step.decision)
                rule.carry_out(act, (next(new_ids) or "") if isinstance(step.decision, Combine) else "")
                words[act[0]] += 1
    return words


@settings(max_examples=60, deadline=None)
@given(PLAYED)
def test_every_merge_of_a_simulation_is_the_written_rules(played: dict[str, object]) -> None:
    merged_twice(play(**played))  # type: ignore[arg-type]


def test_the_simulations_compared_hold_all_kinds_of_decisions() -> None:
    words = Counter[str]()
    for seed in range(2, 9, 2):
        for preset in ("default", "strict"):  # strict keeps more near-misses
            words += merged_twice(play(seed, PRESETS[preset], 1.0, 8, batch=True))
    assert words.keys() == {"promote", "drop", "repeat", "shelve", "merge", "half", "fail", "measure"}


def lowest_so_far(played: Simulation) -> list[str]:
    """What greedy means: every candidate runs once, and whoever has the lowest score yet is the baseline."""
    lowest, won = math.inf, []
    for step in played.log:
        if step.kind != "result" or step.score is None or step.score > lowest:
            continue
        if lowest < math.inf:
            won.append(step.candidate_id)
        lowest = step.score
    return won


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("seed", range(8))
def test_the_greedy_preset_is_the_lowest_score_so_far(seed: int, slots: int) -> None:
    """Once the first baseline has its score: what ran with it is judged when it arrives, the best of them first."""
    played = simulate(world(seed, 40, SIGMA0, crash_share=0.0, lost_share=0.0), slots, slots, PRESETS["greedy"])
    promoted = [decision.candidate_id for decision in played.decisions if isinstance(decision, Promote)]
    won = lowest_so_far(played)
    assert promoted == won if slots == 1 else promoted[-1:] == won[-1:]
    assert all(s.n == 1 for s in played.lab.standings)
    assert not played.lab.merges and not played.lab.in_state(CandidateState.SHELVED)


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
    gates, rng, searches = replace(PRESETS[preset], prior_df=1e9), random.Random(7), 3000
    share = sum(null_promotion(rng, gates) for _ in range(searches)) / searches
    expected = implied_false_promotions(gates)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / searches)
