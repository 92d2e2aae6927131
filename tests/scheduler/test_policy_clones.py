"""Scores that agree to the last digits under different seeds: one score's worth of evidence, and never a promotion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.candidate import CLONE_BPB, group_clones
from scheduler.domain.run import Finished, RunKind, Scored
from scheduler.domain.slot import RunOrder
from scheduler.policy.stats import lab_noise
from scheduler.search import claim
from tests.scheduler.lab_kit import PlayedLab, as_the_source_says
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.memory_pool import Finishes, Outcome


@pytest.mark.parametrize(
    ("scores", "groups"),
    [
        ((), ()),
        ((1.9,), ((0,),)),
        ((1.9, 1.9), ((0, 1),)),
        ((1.9, 1.8, 1.9), ((0, 2), (1,))),
        ((1.9, 1.9 + CLONE_BPB / 2), ((0, 1),)),
        ((1.9, 1.9 + 1e-7), ((0,), (1,))),
    ],
)
def test_only_scores_that_agree_to_the_last_digits_are_clones(scores: tuple[float, ...], groups: object) -> None:
    assert group_clones(scores) == groups


@given(st.lists(st.floats(0.5, 5.0), max_size=12))
def test_every_score_is_in_one_group(scores: list[float]) -> None:
    groups = group_clones(scores)
    assert sorted(index for group in groups for index in group) == list(range(len(scores)))
    assert list(groups) == sorted(groups)


def test_scores_of_one_seed_that_agree_are_no_clones() -> None:
    """Where nothing is random a baseline that is measured again with a seed it has had scores the same."""
    assert group_clones((1.9, 1.8, 1.9), (1, 2, 1)) == ((0,), (1,), (2,))
    assert group_clones((1.9, 1.9, 1.9, 1.8), (1, 2, 1, 3)) == ((0, 1, 2), (3,))


@given(st.lists(st.tuples(st.sampled_from([1.8, 1.9, 2.0]), st.integers(1, 3)), max_size=12))
def test_every_score_is_in_one_group_whatever_the_seeds(runs: list[tuple[float, int]]) -> None:
    groups = group_clones([score for score, _ in runs], [seed for _, seed in runs])
    assert sorted(index for group in groups for index in group) == list(range(len(runs)))
    assert list(groups) == sorted(groups)
    for group in groups:
        assert len(group) == 1 or len({runs[index][1] for index in group}) > 1


def cloning(order: RunOrder) -> Outcome:
    """A program with CLONE = 1 scores the same whatever its seed."""
    made = as_the_source_says(order)
    assert isinstance(made, Finishes)
    if b"CLONE" not in order.train_py:
        return made
    raw = json.loads(made.result_text)
    return Finishes(json.dumps(raw | {"val_bpb": 1.8965}))


def test_clones_of_a_contender_do_not_promote_it(tmp_path: Path) -> None:
    """It earns a repeat by its first run, and what would have carried an honest candidate is one score here."""
    played = PlayedLab(tmp_path, outcome=cloning)
    played.submit("clone", "SCORE = 1.8965\nCLONE = 1\n")
    played.run()
    played.submit("again", "SCORE = 1.8965\nCLONE = 1\n", again=True)
    played.run()
    standing = played.space.ledger.board("t").of("c0002")
    assert (standing.n, standing.suspect_scores) == (1, 1) and standing.failed_runs >= 1
    assert "suspect: clones" in standing.failure
    assert played.candidate("baseline").state == "baseline" and played.state("clone") == "discarded"
    first, second, *_ = [run.state for run in played.space.ledger.runs.of_candidate("c0002")]
    assert isinstance(first, Finished) and first.result.verdict == Scored(1.8965, None)
    assert isinstance(second, Finished) and second.result.verdict.status == "suspect: clones"
    events = [event for event in played.space.ledger.events.of_interest("t", 100) if "clones" in event.to_state]
    assert events and "to the last digit" in events[0].reason
    assert not broken_invariants(played.space.paths.ledger)


def test_clones_are_no_repeats_for_the_noise(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, outcome=cloning)
    played.run()
    before = lab_noise(played.space.ledger.board("t"))
    played.submit("clone", "SCORE = 1.8965\nCLONE = 1\n")
    for _ in range(3):
        played.submit("clone", "SCORE = 1.8965\nCLONE = 1\n", again=True)
        played.run()
    after = lab_noise(played.space.ledger.board("t"))
    assert (after.df, after.sigma) == (before.df, pytest.approx(before.sigma, rel=0.01))  # runs may last longer by now


def test_a_baseline_of_clones_is_measured_so_often_and_no_more(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, outcome=cloning, baseline="SCORE = 1.9\nCLONE = 1\n")
    played.run()
    assert 3 <= len(played.finished()) <= 6
    assert played.space.ledger.board("t").baseline.n == 1


def test_clones_are_one_score_of_a_claim(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, outcome=cloning, baseline="SCORE = 1.9\nCLONE = 1\n")
    for _ in range(2):
        played.space.ledger.runs.add("c0001", RunKind.CLAIM, "a test")
    played.run()
    runs = [run for run in played.space.ledger.runs.list("t") if run.kind is RunKind.CLAIM]
    assert len(runs) == 2 and claim.stats_of(played.space.ledger.board("t").baseline, runs).scores == (1.8965,)
