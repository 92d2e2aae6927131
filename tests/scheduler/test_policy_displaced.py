"""Baselines displaced by a late candidate: what they brought is asked for again, once, and only if it is not there."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from benchmarks.simulation.transitions import applied, finished, merged
from scheduler.domain.candidate import CandidateState, CandidateStats
from scheduler.domain.decision import PRESETS, Combine, Promote
from scheduler.domain.lab import LabSnapshot
from scheduler.policy.decide import decide
from tests.scheduler.policy_kit import board, simulate, some_ideas, standing

SURE = replace(PRESETS["default"], prior_df=1e9, baseline_every=0)
PROMOTED = CandidateState.PROMOTED


def made_from(base: int, number: int, *scores: float, **more: object) -> CandidateStats:
    return replace(standing(number, *scores, **more), base_id=f"c{base:04d}")


def displaced(*more: CandidateStats, second: float = 0.995, gates: object = SURE) -> LabSnapshot:
    """c0002 was promoted, then c0003 on top of it; c0004, made from the first of all, beat them both."""
    first = standing(1, 1.0, 1.0, 1.0, state=PROMOTED)
    base = made_from(1, 4, 0.980, 0.980, state=CandidateState.BASELINE)
    former = [made_from(1, 2, second, second, state=PROMOTED), made_from(2, 3, 0.990, 0.990, state=PROMOTED)]
    return board(base, first, *former, *more, first=False, gates=gates)  # type: ignore[arg-type]


def test_the_displaced_go_together_onto_the_new_baseline_in_the_order_they_build_on_each_other() -> None:
    decision = decide(displaced())
    assert isinstance(decision, Combine)
    assert (decision.base_id, decision.parts, decision.halving) == ("c0004", ("c0002", "c0003"), 0)
    assert decision.predicted == pytest.approx(-0.010, rel=0.05)


def test_it_is_tried_once_on_a_baseline_whatever_comes_of_it() -> None:
    now = displaced()
    decision = decide(now)
    assert isinstance(decision, Combine)
    assert decide(merged(now, decision, ())) is None
    after = applied(now, decision)
    assert decide(after) is None and after.of("c0002").state is PROMOTED
    won = finished(after, "c0005", 0.970)
    promotion = decide(won)
    assert isinstance(promotion, Promote)
    settled = applied(won, promotion)
    assert not isinstance(decide(settled), Combine), "both are in the baseline's program now"


def test_one_that_turned_out_no_better_than_its_own_baseline_is_left_where_it_is() -> None:
    decision = decide(displaced(second=1.001))
    assert isinstance(decision, Combine) and decision.parts == ("c0003",)


def test_the_baselines_own_lineage_is_not_displaced_and_no_one_is_without_combining() -> None:
    now = displaced()
    heir = replace(now.baseline, base_id="c0003")
    in_line = replace(now, standings=tuple(heir if s is now.baseline else s for s in now.standings))
    assert decide(in_line) is None
    assert decide(displaced(gates=replace(SURE, combine=False))) is None


def test_ids_are_ordered_by_number_where_depth_is_equal() -> None:
    """c9999 was submitted before c10000, although "c10000" is the smaller text."""
    first = standing(1, 1.0, 1.0, 1.0, state=PROMOTED)
    siblings = [made_from(1, number, 0.990, 0.990, state=PROMOTED) for number in (10_000, 9_999)]
    now = board(made_from(1, 10_001, 0.980, 0.980, state=CandidateState.BASELINE), first, *siblings, first=False)
    decision = decide(replace(now, gates=SURE))
    assert isinstance(decision, Combine) and decision.parts == ("c9999", "c10000")


def test_contenders_left_behind_go_first() -> None:
    left = made_from(1, 5, 0.9995, 0.9995, state=CandidateState.CONTENDER)
    now = displaced(left)
    first = decide(now)
    assert isinstance(first, Combine) and first.parts == ("c0005",)
    second = decide(applied(now, first))
    assert isinstance(second, Combine) and second.parts == ("c0002", "c0003")


def test_what_a_simulation_promoted_is_in_its_last_program_or_was_tried_there() -> None:
    """Unless it was carried as often as it may, or turned out to be no better than its own baseline."""
    late = 0
    for seed, preset in itertools.product(range(9), ("default", "bold")):  # that displaces next to none, this some
        lab = simulate(some_ideas(500 + seed, 80), 16, 16, PRESETS[preset]).lab
        lineage, ancestor = list[str](), lab.baseline_id
        while ancestor not in lineage:
            lineage.append(ancestor)
            ancestor = lab.of(ancestor).base_id or "c0001"
        lost = [s for s in lab.in_state(PROMOTED) if s.candidate_id not in lineage]
        tried = {part for merge in lab.merges for part in merge.parts}
        for former in lost:
            own = lab.of(former.base_id or "c0001")
            assert former.candidate_id in tried or former.mean > own.mean or former.origin.merged
        late += len(lost)
    assert late > 3
