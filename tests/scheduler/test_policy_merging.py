"""Late candidates, contenders left behind, near-misses and failed unions: who is merged, how often, and never twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import norm

from benchmarks.simulation.engine import Simulation
from benchmarks.simulation.transitions import applied, finished, merged, without
from scheduler.domain.candidate import CandidateState, CandidateStats, Origin
from scheduler.domain.decision import PRESETS, Combine, Discard, GateSettings, Merge, Noise, Promote, Replicate, Shelve
from scheduler.domain.lab import LabSnapshot
from scheduler.policy.decide import decide
from scheduler.policy.explain import explain_decision
from scheduler.policy.gates import judge_candidate, raised
from scheduler.policy.merging import near_miss_union, unions_allowed
from scheduler.policy.stats import effect_of, lab_noise
from tests.scheduler.policy_kit import SIGMA0, baseline, board, simulate, some_ideas, standing

OPEN, CONTENDER, SHELVED = CandidateState.OPEN, CandidateState.CONTENDER, CandidateState.SHELVED
NOISE = Noise(SIGMA0, 20)
SURE = replace(PRESETS["default"], prior_df=1e9)  # the noise is SIGMA0, whatever the scores say
OLD = standing(90, 1.0, 1.0, 1.0, state=CandidateState.PROMOTED)


def at(p: float, number: int = 2, n: int = 1, **more: object) -> CandidateStats:
    """A candidate of the old baseline with P(better than it) = p."""
    se = SIGMA0 * (1 / n + 1 / 3) ** 0.5
    made = standing(number, *[1.0 - norm.ppf(p) * se] * n, **more)
    return replace(made, base_id=OLD.candidate_id)


def moved(*candidates: CandidateStats, mean: float = 0.99, gates: GateSettings = SURE, **more: object) -> LabSnapshot:
    """A board whose baseline was promoted since: the candidates were made from the old one."""
    base = replace(baseline(mean, mean), base_id=OLD.candidate_id)
    return replace(board(base, OLD, *candidates, first=False, gates=gates), **more)


@pytest.mark.parametrize(
    ("p", "n", "state", "verdict"),
    [
        (0.801, 1, OPEN, Combine),
        (0.799, 1, OPEN, Discard),
        (0.799, 2, OPEN, Shelve),
        (0.651, 2, OPEN, Shelve),
        (0.649, 2, OPEN, Discard),
        (0.501, 1, CONTENDER, Combine),
        (0.499, 1, CONTENDER, Discard),
    ],
)
def test_what_a_late_candidate_was_worth_on_its_own_baseline_decides(p: float, n: int, state, verdict: type) -> None:
    decision = decide(moved(at(p, n=n, state=state)))
    assert isinstance(decision, verdict)
    if isinstance(decision, Combine):
        assert (decision.parts, decision.base_id, decision.halving) == (("c0002",), "c0001", 0)
    else:
        assert decision.base_id == OLD.candidate_id


def test_one_that_beats_even_the_new_baseline_is_promoted() -> None:
    assert isinstance(decide(moved(at(0.9999), mean=1.002)), Promote)
    barely = decide(moved(at(0.95), mean=1.0))
    assert isinstance(barely, Combine), "P against two runs of the new baseline is below the bar of a first run"


def test_a_late_suspect_is_neither_promoted_nor_ported_nor_kept() -> None:
    decision = decide(moved(at(0.9999, suspect_scores=1), mean=1.002))
    assert isinstance(decision, Discard) and "suspect" in decision.reason


def test_a_candidate_carried_over_often_enough_is_kept_or_dropped_and_the_reason_is_true() -> None:
    for p, verdict in ((0.9, Shelve), (0.66, Shelve), (0.6, Discard)):
        candidate, base = at(p, n=2, state=CONTENDER), baseline(0.99, 0.99)
        said = judge_candidate(candidate, base, NOISE, SURE, OLD, may_port=False)
        assert isinstance(said, verdict)
        assert verdict is Shelve or f"{p:.3f} against its own c0090 < 0.65" in said.reason


def test_without_combining_a_late_candidate_is_judged_like_a_new_one() -> None:
    apart = replace(SURE, combine=False)
    assert isinstance(decide(moved(at(0.9), gates=apart)), Discard)
    assert isinstance(decide(moved(at(0.9), gates=apart, mean=1.0)), Replicate)


def test_contenders_left_behind_go_into_one_union_the_likeliest_first() -> None:
    left = [at(0.7, 2, 2, state=CONTENDER), at(0.9, 3, pending_runs=1, state=CONTENDER), at(0.6, 4, 2, state=CONTENDER)]
    unscored = replace(standing(5, pending_runs=1, state=CONTENDER, origin=Origin.PORT), base_id=OLD.candidate_id)
    hopeless = at(0.4, 6, 2, state=CONTENDER)
    now = moved(*left, unscored, hopeless)
    decision = decide(now)
    assert isinstance(decision, Combine)
    assert decision.parts == ("c0003", "c0002", "c0004", "c0005")
    rest = decide(applied(now, decision))
    assert isinstance(rest, Discard) and rest.candidate_id == "c0006"


def test_the_result_of_a_contender_closed_by_a_promotion_is_recorded_and_never_judged() -> None:
    now = moved(at(0.7, 2, pending_runs=1, state=CONTENDER))
    now = applied(now, decide(now))
    wonderful = finished(now, "c0002", 0.9)
    assert now.of("c0002").state is SHELVED and decide(now) is decide(wonderful) is None


def shelf(*ps: float) -> list[CandidateStats]:
    return [replace(at(p, 10 + i, state=SHELVED), base_id="c0001") for i, p in enumerate(ps)]


def shelved(*ps: float, **more: object) -> LabSnapshot:
    return board(baseline(1.0, 1.0, 1.0), *shelf(*ps), gates=replace(SURE, **more))  # type: ignore[arg-type]


def test_the_likeliest_near_misses_are_united_as_many_as_may_be() -> None:
    union = near_miss_union(shelved(0.66, 0.79, 0.70, 0.75, 0.78), 8)
    assert union is not None and union.parts == ("c0011", "c0014", "c0013", "c0012")
    assert near_miss_union(shelved(0.79), 8) is None
    assert near_miss_union(shelved(0.79, 0.6), 8) is None
    assert near_miss_union(shelved(0.79, 0.7, combine=False), 8) is None


def test_a_union_predicts_the_sum_of_what_is_to_be_expected_of_its_parts() -> None:
    now = shelved(0.79, 0.70)
    union = near_miss_union(now, 8)
    expected = [effect_of(part, now.baseline, lab_noise(now)).shrunken for part in shelf(0.79, 0.7)]
    assert union is not None
    assert union.predicted == pytest.approx(sum(expected))


def test_unions_on_trial_keep_within_their_share_of_the_slots() -> None:
    now = shelved(0.79, 0.78, 0.77, 0.76, max_parts=2)
    assert [unions_allowed(now, slots) for slots in (1, 4, 8, 16)] == [1, 1, 2, 4]
    first = near_miss_union(now, 4)
    assert first is not None
    now = applied(now, first)
    assert near_miss_union(now, 4) is None
    second = near_miss_union(now, 8)
    assert second is not None and not set(second.parts) & set(first.parts)


def test_the_same_near_misses_are_not_tried_twice_on_a_baseline_even_if_they_conflict() -> None:
    now = shelved(0.79, 0.78)
    union = near_miss_union(now, 8)
    assert union is not None
    assert near_miss_union(merged(now, union, ()), 8) is None


def failed_union(*ps: float, **more: object) -> LabSnapshot:
    """A union of near-misses that were made from a baseline before this one, measured and dropped."""
    now = moved(*[replace(s, base_id=OLD.candidate_id) for s in shelf(*ps)], gates=replace(SURE, **more))  # type: ignore[arg-type]
    union = near_miss_union(now, 8)
    assert union is not None
    now = applied(now, union)
    return finished(now, now.merges[-1].candidate_id or "", 1.01)


def test_a_failed_union_is_halved_down_to_its_best_part_and_no_further() -> None:
    now, seen = failed_union(0.79, 0.78, 0.77, 0.76), list[tuple[str, ...]]()
    while decision := decide(now):
        now = applied(now, decision)
        if isinstance(decision, Combine):
            seen.append(decision.parts)
            assert decision.halving == len(seen) and decision.predicted < 0
            now = finished(now, now.merges[-1].candidate_id or "", 1.01)
    assert seen == [("c0010", "c0011"), ("c0010",)]


@pytest.mark.parametrize("most", [0, 1, 2])
def test_halvings_are_counted(most: int) -> None:
    now, halves = failed_union(0.79, 0.78, 0.77, 0.76, max_halvings=most), 0
    while decision := decide(now):
        now = applied(now, decision)
        if isinstance(decision, Combine):
            halves += 1
            now = finished(now, now.merges[-1].candidate_id or "", 1.01)
    assert halves == most


def test_a_half_that_was_measured_before_the_union_is_not_measured_again() -> None:
    now = shelved(0.79, 0.78)
    union = near_miss_union(now, 8)
    assert union is not None
    now = finished(applied(now, union), "c0012", 1.01)
    dropped = decide(now)
    assert isinstance(dropped, Discard) and decide(applied(now, dropped)) is None


def test_the_patch_of_a_baseline_that_a_late_candidate_displaced_is_in_force_no_more() -> None:
    """c0001 was made from the old baseline, not from c0004, so what c0004 brought is not in it."""
    port = replace(standing(4, 0.995, state=CandidateState.PROMOTED, origin=Origin.PORT), base_id=OLD.candidate_id)
    made = Merge(1, OLD.candidate_id, ("c0010",), ("c0010",), "c0004", 0, -0.001)
    now = moved(port, *[replace(s, base_id=OLD.candidate_id) for s in shelf(0.79, 0.78)], merges=(made,))
    union = near_miss_union(now, 8)
    assert union is not None and union.parts == ("c0010", "c0011")
    heir = replace(now, standings=tuple(replace(s, base_id="c0004") if s is now.baseline else s for s in now.standings))
    assert near_miss_union(heir, 8) is None


@pytest.fixture(params=[(seed, slots) for seed, slots in enumerate([1, 2, 4, 8, 8, 16])], scope="module")
def played(request: pytest.FixtureRequest) -> Simulation:
    seed, slots = request.param
    return simulate(some_ideas(200 + seed, 90), slots, slots if seed % 2 else None)


class Programs:
    """What every program of a simulation is made of: the edits since the first, known by bases and merges alone."""

    def __init__(self, last: LabSnapshot) -> None:
        self.last, self.merges = last, {merge.candidate_id: merge for merge in last.merges}

    def edits(self, ref: str) -> Counter[str]:
        merge = self.merges.get(ref)
        if merge is None:
            return Counter([ref])
        return sum((self.edits(part) for part in merge.merged), Counter[str]())

    def program(self, ref: str) -> Counter[str]:
        if ref == "c0001":
            return Counter[str]()
        return self.program(self.last.of(ref).base_id or "c0001") + self.edits(ref)


def test_no_program_of_a_simulation_holds_an_edit_twice(played: Simulation) -> None:
    programs = Programs(played.lab)
    for made in played.lab.standings:
        assert max(programs.program(made.candidate_id).values(), default=1) == 1


def test_no_edit_is_carried_more_often_or_halved_deeper_than_it_may(played: Simulation) -> None:
    programs, carried = Programs(played.lab), Counter[str]()
    for merge in played.lab.merges:
        assert merge.halving <= played.gates.max_halvings
        if not merge.halving:
            carried.update({edit for part in merge.parts for edit in programs.edits(part)})
    assert carried and max(carried.values()) <= played.gates.max_ports


def test_every_merge_stands_in_for_parts_that_are_decided(played: Simulation) -> None:
    for before, decision in played.decided:
        if isinstance(decision, Combine):
            assert len(set(decision.parts)) == len(decision.parts)
            after = applied(before, decision)
            assert all(after.of(part).state in (SHELVED, CandidateState.PROMOTED) for part in decision.parts)
            assert after.of(after.merges[-1].candidate_id or "").state is CONTENDER
            near_misses = not decision.halving and all(before.of(part).state is SHELVED for part in decision.parts)
            on_trial = sum(s.origin is Origin.UNION for s in before.undecided)
            assert not near_misses or on_trial < unions_allowed(before, played.slots)


def test_every_verdict_of_a_simulation_follows_from_its_own_numbers(played: Simulation) -> None:
    for now, decision in played.decided:
        if not isinstance(decision, Promote | Replicate | Discard | Shelve) or decision.effect is None:
            continue
        subject = now.of(decision.candidate_id)
        own = now.of(subject.base_id or "c0001")
        own_base = own if own.scores and own is not now.baseline else None
        gates = raised(now.gates, now.trials_on_baseline)
        arguments = (subject, now.baseline, lab_noise(now), gates, own_base)
        assert decision in [judge_candidate(*arguments, may_port=may) for may in (True, False)]


def test_the_settled_with_one_score_may_be_left_out_of_every_board(played: Simulation) -> None:
    """What decide() promises whoever has thousands of candidates."""
    lost, left_out = (CandidateState.DISCARDED, CandidateState.FAILED), 0
    for now, _ in played.decided:
        kept = tuple(s for s in now.standings if s.state not in lost or s.n > 1 or s.origin.merged)
        left_out += len(now.standings) - len(kept)
        pruned = now
        for gone in [s for s in now.standings if s not in kept]:
            pruned = without(pruned, gone.candidate_id)
        assert decide(pruned) == decide(now)
        assert near_miss_union(pruned, played.slots) == near_miss_union(now, played.slots)
    assert left_out > 1000


def test_every_decision_of_a_simulation_is_one_line(played: Simulation) -> None:
    for now, decision in played.decided:
        if decision is not None:
            said = explain_decision(decision, "a-name")
            assert said and "\n" not in said and said == said.strip()
            assert isinstance(decision, Combine) or "a-name" in said
            if isinstance(decision, Promote | Replicate | Discard | Shelve) and decision.effect:
                assert "expect about" in said and now.of(decision.candidate_id).n == decision.effect.n_candidate
