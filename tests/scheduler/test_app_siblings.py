"""Eight candidates submitted together, whose results come in one poll after another: the best of them is promoted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import PRESETS, GateSettings
from scheduler.domain.run import Running
from scheduler.domain.slot import RunOrder
from scheduler.queue.runtime import StopReason
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab, as_the_source_says, constants
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.memory_pool import Finishes, Outcome, Vanishes

RUN_S, BEST = 300.0, 5
SCORES = [1.60, 1.70, 1.58, 1.65, 1.62, 1.50, 1.66, 1.55]  # the baseline has 1.90: all are better


def one_after_another(order: RunOrder) -> Outcome:
    """The k-th candidate ends k polls later than its round began; `STATUS` and `DIES` as the source says."""
    outcome = as_the_source_says(order)
    late = float(str(constants(order).get("LATE", 0)))
    return replace(outcome, after_s=RUN_S + late) if isinstance(outcome, Finishes | Vanishes) else outcome


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    return PlayedLab(tmp_path, slots=8, outcome=one_after_another)


def submit_all(played: PlayedLab, gates: GateSettings, *more: str) -> None:
    """The baseline is measured first, then all eight begin in one poll."""
    played.space.ledger.labs.set_gates("t", gates)
    played.run()
    for number, score in enumerate(SCORES):
        played.submit(f"idea-{number}", f"SCORE = {score}\nLATE = {number}\n")
    for number, source in enumerate(more):
        played.submit(f"more-{number}", source)


def promotions(played: PlayedLab) -> list[str]:
    names = {one.id: one.name for one in played.space.ledger.candidates.list("t")}
    return [names[made.candidate_id] for made in played.space.ledger.decisions.promotions("t")]


@pytest.mark.parametrize("preset", ["default", "rounds"])
def test_of_eight_that_ran_together_the_best_is_promoted_and_no_other(played: PlayedLab, preset: str) -> None:
    submit_all(played, replace(PRESETS[preset], combine=False))
    assert played.run() is StopReason.DONE
    assert promotions(played) == [f"idea-{BEST}"]
    assert not broken_invariants(played.space.paths.ledger)


def test_without_waiting_the_first_past_the_bar_wins(played: PlayedLab) -> None:
    submit_all(played, replace(PRESETS["default"], combine=False, sibling_wait=0.0))
    played.run()
    assert promotions(played)[0] == "idea-0" and len(promotions(played)) > 1


def test_while_a_promotion_waits_no_slot_takes_a_run_that_it_would_make_stale(played: PlayedLab) -> None:
    submit_all(played, replace(PRESETS["default"], combine=False), "SCORE = 2.0\n", "SCORE = 2.1\n")
    begun: set[str] = set()  # before the promotion

    def watch() -> None:
        if not promotions(played):
            runs = played.space.ledger.runs.list("t")
            begun.update(run.candidate_id for run in runs if isinstance(run.state, Running))

    played.each_round = watch
    played.run()
    assert len(begun) == 8 and promotions(played) == [f"idea-{BEST}"]
    assert played.state("more-0") is played.state("more-1") is CandidateState.DISCARDED


@pytest.mark.parametrize("preset", ["default", "rounds"])
@pytest.mark.parametrize("end", ['STATUS = "crash"\n', 'DIES = "the judge was killed"\n'])
def test_a_sibling_that_dies_is_waited_for_no_longer(played: PlayedLab, preset: str, end: str) -> None:
    submit_all(played, replace(PRESETS[preset], combine=False))
    played.submit("dead", end + "LATE = 9\n")
    assert played.run() is StopReason.DONE
    assert promotions(played) == [f"idea-{BEST}"]


@pytest.mark.parametrize("preset", ["default", "rounds"])
def test_a_slot_lost_for_good_holds_nothing(played: PlayedLab, preset: str) -> None:
    submit_all(played, replace(PRESETS[preset], combine=False))
    lost: list[str] = []

    def lose() -> None:
        if not lost and len(played.pool.started) == 3 + 8:
            lost.append("memory/cpu7")
            played.pool.lose_slot(lost[0])

    played.each_round = lose
    assert played.run() is StopReason.DONE
    assert promotions(played)[0] == f"idea-{BEST}" and lost


def test_a_scheduler_that_dies_while_a_promotion_waits_promotes_the_best_when_it_is_back(played: PlayedLab) -> None:
    played.outlives_us = True
    submit_all(played, replace(PRESETS["default"], combine=False))
    results = len(played.finished())

    def die() -> None:
        if len(played.finished()) == results + 2:
            raise KeyboardInterrupt

    played.each_round = die
    with pytest.raises(KeyboardInterrupt):
        played.run()
    assert not promotions(played)
    played.each_round = lambda: None
    assert played.run() is StopReason.DONE
    assert promotions(played) == [f"idea-{BEST}"]
