"""Questions asked many times a minute: counts by the database, and what is read again only when something changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.candidate import Occasion
from scheduler.domain.decision import PRESETS
from scheduler.domain.run import RunKind
from scheduler.domain.slot import RunOrder
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import as_the_source_says
from tests.scheduler.ledger_kit import (
    SLOT,
    Clock,
    add_candidate,
    finish,
    measure,
    ok,
    open_ledger,
    result_of,
    start_lab,
)
from tests.scheduler.memory_pool import Outcome, failed
from tests.scheduler.search_kit import SearchLab, idea, settings


def test_a_score_is_known_by_the_middle_of_its_run_its_slot_its_seed_and_the_machines_speed(tmp_path: Path) -> None:
    clock = Clock(1000.0)
    with open_ledger(tmp_path / "l.db", clock) as ledger:
        start_lab(ledger)
        add_candidate(ledger, "idea", runs=4)
        first, second, third, fourth = ledger.runs.queued("t")
        assert ledger.runs.lease(first.id, SLOT, 9e9) and ledger.runs.requeue(first.id, 1, "node gone")
        assert ledger.board("t").of("c0002").running_since == ()
        clock.now = 2000.0
        attempt = ledger.runs.lease(first.id, SLOT, 9e9)
        clock.now = 2010.0
        other = replace(SLOT, id="node-b/cpu1")
        for run in (second, third):
            assert ledger.runs.lease(run.id, other, 9e9)
        assert ledger.board("t").of("c0002").running_since == (2000.0, 2010.0, 2010.0)
        clock.now = 2100.0
        assert ledger.runs.record(second.id, 1, result_of("crash", machine={"speed": 0.5}))
        assert attempt and ledger.runs.record(
            first.id, attempt, ok(1.8, machine={"speed": 0.97}, phases_s={"train": 21.5})
        )
        clock.now = 2110.0
        assert ledger.runs.record(third.id, 1, ok(1.81))
        assert ledger.runs.lease(fourth.id, SLOT, 9e9)
        idea = ledger.board("t").of("c0002")
        assert idea.scores == (1.8, 1.81)
        assert idea.occasions == (Occasion(2050.0, SLOT.id, 1, 0.97, 21.5), Occasion(2060.0, other.id, 3))
        assert idea.running_since == (2110.0,)


def test_a_board_knows_how_long_runs_take(tmp_path: Path) -> None:
    clock = Clock(1000.0)
    with open_ledger(tmp_path / "l.db", clock) as ledger:
        start_lab(ledger, scores=())
        assert ledger.board("t").run_s is None
        idea = add_candidate(ledger, "idea", runs=3)
        for run, took in zip(ledger.runs.queued("t")[-3:], (10.0, 30.0, 900.0), strict=True):
            assert run.candidate_id == idea.id
            attempt = ledger.runs.lease(run.id, SLOT, 9e9)
            clock.now += took
            assert attempt and ledger.runs.record(run.id, attempt, ok(1.8 + took * 1e-6))
        assert ledger.board("t").run_s == 30.0


@pytest.mark.parametrize(
    ("recorded", "wall_s", "lasted"),
    [
        (1100.0, 95.0, 100.0),
        (1100.0, None, 100.0),
        (30_000.0, 95.0, 95.0),  # nothing was there to fetch it for hours
        (1000.0 - 7200.0, 95.0, 95.0),  # the clock was set back meanwhile
        (1000.0 - 7200.0, None, 0.0),
    ],
)
def test_a_run_lasted_as_long_as_its_judge_whatever_the_clock_says(
    tmp_path: Path, recorded: float, wall_s: float | None, lasted: float
) -> None:
    clock = Clock(1000.0)
    with open_ledger(tmp_path / "l.db", clock) as ledger:
        start_lab(ledger, scores=())
        (run,) = ledger.runs.queued("t")
        attempt = ledger.runs.lease(run.id, SLOT, 9e9)
        clock.now = recorded
        assert attempt and ledger.runs.record(run.id, attempt, ok(1.8, wall_s=wall_s))
        board = ledger.board("t")
        assert board.run_s == lasted and ledger.runs.last_lengths_s("t") == (lasted,)
        assert board.baseline.occasions[0].at == 1000.0 + lasted / 2


def test_a_control_on_a_slowed_gpu_makes_no_idea_look_better(tmp_path: Path) -> None:
    slowed = "suspect: throttled"
    with open_ledger(tmp_path / "l.db") as ledger:
        start_lab(ledger, scores=(1.90, 1.91))
        idea = add_candidate(ledger, "idea")
        for ref, score in (("c0001", 2.1), (idea.id, 1.95)):
            run = ledger.runs.add(ref, RunKind.REPEAT, "again")
            finish(ledger, run, result_of(slowed, val_bpb=score, val_bpb_upstream=score))
        base, other = ledger.board("t").baseline, ledger.board("t").of(idea.id)
        assert (base.scores, base.failed_runs, base.failure, base.suspect_scores) == ((1.90, 1.91), 1, slowed, 0)
        assert (other.scores, other.failed_runs, other.suspect_scores) == ((1.95,), 0, 1)
    with open_ledger(tmp_path / "always.db") as ledger:  # it is compared with what there is
        start_lab(ledger, scores=())
        finish(ledger, ledger.runs.queued("t")[0], result_of(slowed, val_bpb=2.1, val_bpb_upstream=2.1))
        base = ledger.board("t").baseline
        assert (base.scores, base.failed_runs, base.suspect_scores) == ((2.1,), 0, 1)


def test_runs_of_ideas_are_counted_by_when_they_came_and_claims_not_at_all(tmp_path: Path) -> None:
    clock = Clock(1000.0)
    with open_ledger(tmp_path / "l.db", clock) as ledger:
        baseline = start_lab(ledger)
        clock.now = 2000.0
        idea = add_candidate(ledger, "idea")
        measure(ledger, idea, 1.8)
        crash = add_candidate(ledger, "crash")
        (queued,) = ledger.runs.queued("t")
        finish(ledger, queued, result_of("crash"))
        claim = ledger.runs.add(baseline.id, RunKind.CLAIM, "claim of search 1")
        finish(ledger, claim, ok(1.9))
        assert len(ledger.runs.last_lengths_s("t")) == 5  # a crash does not show how long runs take
        assert ledger.runs.last_failures("t") == {crash.id: "crash"}
        assert {(c.kind, c.state, c.family): c.runs for c in ledger.runs.counts("t")} == {
            ("baseline", "finished", "scored"): 3,
            ("new", "finished", "scored"): 1,
            ("new", "finished", "failed"): 1,
            ("claim", "finished", "scored"): 1,
        }
        later = add_candidate(ledger, "later", runs=2)
        ledger.runs.lease(ledger.runs.of_candidate(later.id)[0].id, SLOT, 9e9)
        assert ledger.runs.count_of_ideas("t", 0.0) == {"finished": 2, "queued": 1, "running": 1}, "no baseline's"
        assert ledger.runs.count_of_ideas("t", 2000.1) == {}
        assert ledger.runs.count_of_ideas("other", 0.0) == {}


def test_the_stamp_changes_with_every_write_of_any_connection_and_with_nothing_else(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ours, open_ledger(tmp_path / "l.db") as theirs:
        start_lab(ours)
        before = ours._database.stamp()
        ours.board("t")
        ours.runs.list("t")
        theirs.board("t")
        assert ours._database.stamp() == before
        theirs.labs.pause("t", "")
        after = ours._database.stamp()
        assert after != before
        ours.labs.resume("t")
        assert ours._database.stamp() not in (before, after)


def test_a_board_is_the_same_object_until_something_is_written_by_anyone(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ours, open_ledger(tmp_path / "l.db") as theirs:
        start_lab(ours)
        board = ours.board("t")
        assert ours.board("t") is board
        add_candidate(theirs, "idea")
        assert [standing.name for standing in ours.board("t").standings] == ["baseline", "idea"]
        measure(ours, ours.candidates.get("idea", "t"), 1.7)
        assert ours.board("t").of("c0002").scores == (1.7,)
        theirs.labs.set_gates("t", PRESETS["bold"])
        assert ours.board("t").gates == PRESETS["bold"]


def test_a_board_read_inside_a_transaction_that_is_undone_is_not_kept(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        start_lab(ledger)
        with pytest.raises(KeyboardInterrupt), ledger.transaction():
            add_candidate(ledger, "idea")
            assert len(ledger.board("t").standings) == 2
            raise KeyboardInterrupt
        assert len(ledger.board("t").standings) == 1
        with ledger.transaction():
            add_candidate(ledger, "idea")
        with ledger.snapshot():
            assert len(ledger.board("t").standings) == 2


def test_a_board_brought_up_to_date_is_the_board_read_afresh(tmp_path: Path) -> None:
    """Through every step of a search with promotions, merges, crashes, cancelled and requeued runs."""
    lab = SearchLab(tmp_path, outcome=now_and_then_a_crash)
    looks = 0

    def compare() -> None:
        nonlocal looks
        looks += 1
        if looks % 5 == 0:
            with open_ledger(lab.space.paths.ledger) as fresh:
                assert fresh.board("t") == lab.space.ledger.board("t")

    lab.each_round = compare
    made = iter([1.895, 1.89, 1.7, 1.86, 1.5, 1.699, 1.693, 1.69, *[1.8] * 40])
    lab.search(
        settings("fake", "union", runs=40, claim_runs=1),
        lab.fake(lambda ask: idea(next(made))(ask), latency=lambda ask: 7.0),
    )
    compare()
    board = lab.space.ledger.board("t")
    assert len(lab.space.ledger.decisions.promotions("t")) >= 2 and board.merges and looks > 100


def now_and_then_a_crash(order: RunOrder) -> Outcome:
    return failed("crash", after_s=3.0) if order.seed % 9 == 8 else as_the_source_says(order)


def test_names_that_are_taken(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        start_lab(ledger)
        add_candidate(ledger, "idea")
        assert ledger.candidates.names("t") == {"baseline", "idea"} and ledger.candidates.names("u") == set()
