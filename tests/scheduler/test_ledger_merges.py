"""Shelving and merging in the ledger: what is closed by them, what comes of them, and what they refuse."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState, Origin
from scheduler.domain.decision import (
    Assembled,
    Combine,
    Decision,
    Discard,
    MeasureBaseline,
    Merge,
    Promote,
    Replicate,
    Shelve,
)
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.run import Cancelled, Queued, RunKind, Running
from scheduler.ledger import Ledger
from tests.scheduler.ledger_kit import (
    NOISE,
    SLOT,
    add_candidate,
    broken_invariants,
    effect,
    finish,
    measure,
    merged_program,
    ok,
    open_ledger,
    start_lab,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """Baseline c0001; c0002 and c0003 measured and undecided; c0004 a contender with a queued repeat."""
    with open_ledger(path) as ledger:
        start_lab(ledger)
        measure(ledger, add_candidate(ledger, "wide"), 1.85)
        measure(ledger, add_candidate(ledger, "deep"), 1.86)
        measure(ledger, add_candidate(ledger, "warm"), 1.87)
        apply(ledger, Replicate("c0004", "c0001", effect(), "promising"))
        yield ledger
    assert broken_invariants(path) == []


def apply(ledger: Ledger, decision: Decision, **more: object) -> None:
    commit = "f" * 40 if isinstance(decision, Promote) else None
    ledger.decisions.apply("t", decision, noise=NOISE, sentence="as decided", commit=commit, **more)  # type: ignore[arg-type]


def state_of(ledger: Ledger, ref: str) -> CandidateState:
    return ledger.candidates.get(ref, "t").state


UNION = Combine("c0001", ("c0004", "c0002"), 1, -0.0123, "runners-up")
PROGRAM = replace(merged_program("union-c0004-c0002", "c0004", "c0002"), code_lines=77)


def test_a_shelved_candidate_takes_no_more_slots_and_waits_for_a_union(ledger: Ledger) -> None:
    apply(ledger, Shelve("c0004", "c0001", effect(), "near miss"))
    assert state_of(ledger, "c0004") is CandidateState.SHELVED
    assert [type(run.state) for run in ledger.runs.of_candidate("c0004")][1:] == [Cancelled]
    board = ledger.board("t")
    assert [s.candidate_id for s in board.in_state(CandidateState.SHELVED)] == ["c0004"]
    (record,) = ledger.decisions.of_candidate("c0004")[1:]
    assert record.decision == Shelve("c0004", "c0001", effect(), "near miss")


def test_a_union_is_a_contender_on_the_baseline_with_one_run(ledger: Ledger) -> None:
    apply(ledger, UNION, assembled=PROGRAM)
    new = ledger.candidates.get(PROGRAM.name, "t")
    assert (new.state, new.origin, new.base_id, new.code_lines) == (
        *(CandidateState.CONTENDER, Origin.UNION, "c0001"),
        77,
    )
    assert (new.commit, ledger.candidates.train_py(new.id)) == (PROGRAM.commit, PROGRAM.train_py)
    (run,) = ledger.runs.of_candidate(new.id)
    assert run.kind is RunKind.UNION and isinstance(run.state, Queued)
    board = ledger.board("t")
    merge = Merge(1, "c0001", ("c0004", "c0002"), ("c0004", "c0002"), new.id, 1, -0.0123)
    assert board.merges == (merge,)
    assert (board.of(new.id).origin, board.of(new.id).code_lines, board.of(new.id).pending_runs) == (
        *(Origin.UNION, 77),
        1,
    )


def test_its_undecided_parts_are_shelved_and_their_queued_runs_cancelled(ledger: Ledger) -> None:
    apply(ledger, Shelve("c0003", "c0001", effect(), "near miss"))
    apply(ledger, replace(UNION, parts=("c0004", "c0003", "c0002")), assembled=PROGRAM)
    assert {state_of(ledger, ref) for ref in ("c0002", "c0003", "c0004")} == {CandidateState.SHELVED}
    assert isinstance(ledger.runs.of_candidate("c0004")[1].state, Cancelled)


def test_a_part_that_runs_goes_on_and_its_result_is_recorded_and_not_judged(ledger: Ledger) -> None:
    run = ledger.runs.of_candidate("c0004")[1]
    attempt = ledger.runs.lease(run.id, SLOT, 2000.0)
    apply(ledger, UNION, assembled=PROGRAM)
    assert isinstance(ledger.runs.get(run.id, "t").state, Running)
    assert attempt is not None and ledger.runs.record(run.id, attempt, ok(1.5))
    board = ledger.board("t")
    assert board.of("c0004").scores == (1.87, 1.5)
    assert "c0004" not in [s.candidate_id for s in board.undecided]


def test_one_part_is_a_port_and_so_is_a_union_of_which_one_part_went_in(ledger: Ledger) -> None:
    apply(ledger, replace(UNION, parts=("c0003",)), assembled=merged_program("port-c0003", "c0003"))
    apply(ledger, UNION, assembled=merged_program("port-c0004", "c0004"))
    assert [ledger.candidates.get(n, "t").origin for n in ("port-c0003", "port-c0004")] == [Origin.PORT] * 2
    assert ledger.board("t").merges[1].merged == ("c0004",)


def test_a_merge_of_which_nothing_came_is_on_record_and_closes_its_parts(ledger: Ledger) -> None:
    apply(ledger, UNION, problem="everything conflicts")
    assert ledger.board("t").merges == (
        Merge(1, "c0001", ("c0004", "c0002"), (), None, 1, -0.0123, "everything conflicts"),
    )
    assert len(ledger.candidates.list("t")) == 4
    assert state_of(ledger, "c0002") is CandidateState.SHELVED


def test_every_part_knows_the_merge_it_went_into(ledger: Ledger) -> None:
    apply(ledger, UNION, assembled=PROGRAM)
    for part in UNION.parts:
        record = ledger.decisions.of_candidate(part)[-1]
        assert (record.decision, record.kind, record.candidate.candidate_id) == (UNION, "combine", "c0004")
    assert ledger.decisions.of_candidate("c0003") == ()


def promote_another(ledger: Ledger) -> None:
    apply(ledger, Promote("c0003", "c0001", effect(), "better"))


def merge_before(ledger: Ledger) -> None:
    apply(ledger, replace(UNION, parts=("c0003",)), assembled=merged_program("port-c0003", "c0003"))


def submit_the_same_program(ledger: Ledger) -> None:
    add_candidate(ledger, "elsewhere")
    ledger._database.execute("UPDATE candidate SET fingerprint = ? WHERE name = 'elsewhere'", PROGRAM.fingerprint)


def submit_the_same_name(ledger: Ledger) -> None:
    add_candidate(ledger, PROGRAM.name)
    ledger._database.execute("UPDATE candidate SET fingerprint = '' WHERE name = ?", PROGRAM.name)


def do_nothing(ledger: Ledger) -> None:
    pass


REFUSED: dict[str, tuple[Callable[[Ledger], None], Combine]] = {
    "the baseline is another": (promote_another, UNION),
    "the base is the part's own": (do_nothing, replace(UNION, base_id="c0002")),
    "a part is unknown": (do_nothing, replace(UNION, parts=("c0002", "c0099"))),
    "there was a merge since": (merge_before, UNION),
    "the program was submitted since": (submit_the_same_program, UNION),
    "the name was taken since": (submit_the_same_name, UNION),
}


@pytest.mark.parametrize(("before", "decision"), REFUSED.values(), ids=REFUSED)
def test_a_merge_from_another_board_writes_nothing(
    ledger: Ledger, path: Path, before: Callable[[Ledger], None], decision: Combine
) -> None:
    before(ledger)
    content = dump(path)
    with pytest.raises(LedgerProblem):
        apply(ledger, decision, assembled=PROGRAM, merges_seen=0)
    assert dump(path) == content


@pytest.mark.parametrize(("assembled", "problem"), [(None, ""), (PROGRAM, "and a problem")])
def test_a_merge_has_either_a_program_or_a_problem(
    ledger: Ledger, path: Path, assembled: Assembled | None, problem: str
) -> None:
    content = dump(path)
    with pytest.raises(ValueError, match="or else the problem"):
        apply(ledger, UNION, assembled=assembled, problem=problem)
    assert dump(path) == content


def test_a_late_candidate_is_decided_on_against_its_own_baseline(ledger: Ledger) -> None:
    """Its effect is that of its patch; today's baseline, which it was not made from, is on record next to it."""
    promote_another(ledger)
    apply(ledger, Shelve("c0002", "c0001", effect(1, 3), "made from an older baseline"))
    (record,) = ledger.decisions.of_candidate("c0002")
    assert (record.base.candidate_id, record.own_base and record.own_base.candidate_id) == ("c0003", "c0001")
    assert record.own_base is not None and record.own_base.scores == (1.90, 1.91, 1.92)
    assert isinstance(record.decision, Shelve) and record.decision.base_id == "c0001"
    with pytest.raises(LedgerProblem, match="c0001 3, not 1 and 1"):
        apply(ledger, Discard("c0004", "c0001", effect(1, 1), "scores of the other baseline"))


def test_one_made_from_todays_baseline_has_no_other(ledger: Ledger) -> None:
    promote_another(ledger)
    measure(ledger, add_candidate(ledger, "on-top", base_id="c0003"), 1.8)
    apply(ledger, Discard("c0005", "c0003", effect(1, 1), "no"))
    apply(ledger, MeasureBaseline("c0003", "again"))
    assert [record.own_base for record in ledger.decisions.history("t")[-2:]] == [None, None]


def test_a_third_baseline_is_no_base_of_a_decision(ledger: Ledger) -> None:
    promote_another(ledger)
    with pytest.raises(LedgerProblem, match="c0004 is not the baseline, c0003 is"):
        apply(ledger, Discard("c0002", "c0004", effect(1, 1), "held against what it has nothing to do with"))


def test_a_promotion_ends_the_measuring_of_the_old_baseline_but_not_of_a_claim(ledger: Ledger) -> None:
    apply(ledger, MeasureBaseline("c0001", "once more"))
    more, claim = ledger.runs.get("last", "t"), ledger.runs.add("c0001", RunKind.CLAIM, "the search ends")
    running = ledger.runs.add("c0001", RunKind.BASELINE, "once more")
    ledger.runs.lease(running.id, SLOT, 2000.0)
    promote_another(ledger)
    states = [type(ledger.runs.get(run.id, "t").state) for run in (more, claim, running)]
    assert states == [Cancelled, Queued, Running]


def test_runs_of_a_claim_count_for_nothing_else(ledger: Ledger) -> None:
    before = ledger.board("t")
    run = ledger.runs.add("c0001", RunKind.CLAIM, "the search ends")
    assert ledger.board("t") == before
    finish(ledger, run, ok(1.0))
    assert ledger.board("t") == before


def test_the_last_result_a_decision_knew_is_on_record(ledger: Ledger) -> None:
    mark = ledger.runs.last_result()
    assert mark == 6
    finish(ledger, ledger.runs.add("c0001", RunKind.CLAIM, "later"), ok(1.9))
    apply(ledger, Shelve("c0002", "c0001", effect(), "taken before"), result_mark=mark)
    apply(ledger, Shelve("c0003", "c0001", effect(), "taken now"))
    assert [record.result_mark for record in ledger.decisions.history("t")] == [6, 6, 7]


def test_merges_cannot_be_rewritten(ledger: Ledger, path: Path) -> None:
    apply(ledger, UNION, assembled=PROGRAM)
    for statement in ("UPDATE merge SET problem = problem", "DELETE FROM merge"):
        with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())
