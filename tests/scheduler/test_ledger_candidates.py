"""Labs and candidates in the ledger: added whole or not at all, found by what people type, counted on the board."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import PRESETS, GateSettings
from scheduler.domain.errors import CandidateRejected, LabProblem, LedgerProblem, UsageProblem
from scheduler.domain.run import Cancelled, Finished, RunKind
from scheduler.ledger import Ledger
from tests.scheduler.ledger_kit import (
    SLOT,
    add_candidate,
    broken_invariants,
    finish,
    make_lab,
    measure,
    ok,
    open_ledger,
    result_of,
    start_lab,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path) as ledger:
        start_lab(ledger)
        yield ledger
    assert broken_invariants(path) == []


# Labs


def test_a_lab_comes_back_as_it_was_created(ledger: Ledger) -> None:
    lab = make_lab("other", PRESETS["bold"])
    ledger.labs.create(lab)
    assert ledger.labs.get("other") == ledger.labs.current() == lab
    assert [lab.tag for lab in ledger.labs.all()] == ["other", "t"]


def test_a_tag_is_used_once(ledger: Ledger) -> None:
    with pytest.raises(LabProblem, match="lab 't' exists"):
        ledger.labs.create(replace(make_lab("t"), lab_id="another"))
    assert len(ledger.labs.all()) == 1


def test_an_unknown_lab_is_answered_with_the_known_ones(ledger: Ledger) -> None:
    with pytest.raises(LabProblem, match=r"no lab 'x' \(labs here: t\)"):
        ledger.labs.get("x")
    with pytest.raises(LabProblem):
        ledger.labs.set_current("x")
    assert ledger.labs.current() == ledger.labs.get("t")


def test_one_lab_is_current(ledger: Ledger, path: Path) -> None:
    ledger.labs.create(make_lab("other"))
    ledger.labs.set_current("t")
    ledger.labs.set_current("t")
    assert ledger.labs.current() == ledger.labs.get("t")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT sum(is_current) FROM lab").fetchone() == (1,)


def test_no_lab_is_current_before_the_first(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "new.db") as ledger:
        assert ledger.labs.current() is None


def test_gates_change_from_here_on(ledger: Ledger) -> None:
    ledger.labs.set_gates("t", PRESETS["strict"])
    assert ledger.board("t").gates == PRESETS["strict"]


def test_gates_of_another_version_are_read_with_defaults(ledger: Ledger, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("""UPDATE lab SET gates = '{"name": "old", "promote": 0.6, "unheard_of": 1}'""")
    assert ledger.labs.get("t").gates == GateSettings(name="old", promote=0.6)


# Candidates


def test_a_candidate_comes_with_its_source_and_runs(ledger: Ledger) -> None:
    wide = add_candidate(ledger, "wide", runs=2)
    assert ledger.candidates.get("wide", "t") == wide
    assert ledger.candidates.train_py(wide.id) == b"NAME = 'wide'\n"
    assert [run.kind for run in ledger.runs.of_candidate(wide.id)] == [RunKind.NEW] * 2


@pytest.mark.parametrize("ref", ["c0002", "c2", "wide", "last"])
def test_a_candidate_is_found_by_what_people_type(ledger: Ledger, ref: str) -> None:
    wide = add_candidate(ledger, "wide")
    assert ledger.candidates.get(ref, "t") == wide


@pytest.mark.parametrize(("ref", "nearest"), [("wid", "wide"), ("c0003", "c0002"), ("Wide", "wide")])
def test_an_unknown_candidate_is_named_with_the_nearest(ledger: Ledger, ref: str, nearest: str) -> None:
    add_candidate(ledger, "wide")
    with pytest.raises(UsageProblem, match=f"no candidate '{ref}' in lab 't'") as problem:
        ledger.candidates.get(ref, "t")
    assert nearest in problem.value.hint


def test_a_candidate_of_another_lab_is_pointed_at(ledger: Ledger) -> None:
    start_lab(ledger, "other")
    with pytest.raises(UsageProblem, match="'c0002' is of lab 'other', not 't'") as problem:
        ledger.candidates.get("c0002", "t")
    assert "--tag other" in problem.value.hint


@pytest.mark.parametrize("ref", ["", "'; DROP TABLE candidate; --", "c", "c0", "r0001", "c99999999999999999999999"])
def test_odd_references_are_unknown_candidates(ledger: Ledger, ref: str) -> None:
    with pytest.raises(UsageProblem):
        ledger.candidates.get(ref, "t")


def test_last_in_a_lab_without_candidates_is_a_usage_problem(ledger: Ledger) -> None:
    ledger.labs.create(make_lab("empty"))
    with pytest.raises(UsageProblem):
        ledger.candidates.get("last", "empty")
    with pytest.raises(UsageProblem):
        ledger.runs.get("last", "empty")


def test_a_name_is_used_once_per_lab(ledger: Ledger) -> None:
    add_candidate(ledger, "wide")
    with pytest.raises(CandidateRejected, match="'wide' is taken in lab 't' by c0002"):
        add_candidate(ledger, "wide")
    start_lab(ledger, "other")
    add_candidate(ledger, "wide", "other", base_id="c0003")


@pytest.mark.parametrize("name", ["c7", "c0007", "r12", "last", ""])
def test_a_name_that_reads_like_an_id_is_refused(ledger: Ledger, name: str) -> None:
    with pytest.raises(CandidateRejected):
        add_candidate(ledger, name)


def test_a_refused_candidate_leaves_nothing_behind(ledger: Ledger) -> None:
    runs, events = ledger.runs.list("t"), ledger.events.list("t")
    for base_id in ("c0099", "nonsense"):
        with pytest.raises(LedgerProblem, match=base_id):
            add_candidate(ledger, "orphan", base_id=base_id)
    with pytest.raises(LedgerProblem, match="already has a baseline"):
        add_candidate(ledger, "second", base_id=None)
    with pytest.raises(ValueError):
        add_candidate(ledger, "idle", runs=0)
    assert (ledger.runs.list("t"), ledger.events.list("t")) == (runs, events)


def test_a_base_of_another_lab_is_refused(ledger: Ledger) -> None:
    start_lab(ledger, "other")
    with pytest.raises(LedgerProblem, match="'c0001' is no candidate of lab 'other'"):
        add_candidate(ledger, "wide", "other", base_id="c0001")


def test_a_fingerprint_finds_the_first_of_its_kind(ledger: Ledger) -> None:
    wide = add_candidate(ledger, "wide")
    assert ledger.candidates.find_fingerprint("t", wide.fingerprint) == wide
    assert ledger.candidates.find_fingerprint("t", "unseen") is None
    start_lab(ledger, "other")
    assert ledger.candidates.find_fingerprint("other", wide.fingerprint) is None


def test_a_move_from_a_state_it_is_not_in_changes_nothing(ledger: Ledger) -> None:
    wide = add_candidate(ledger, "wide")
    events = ledger.events.list("t")
    assert not ledger.candidates.set_state(wide.id, CandidateState.CONTENDER, CandidateState.DISCARDED, "stale")
    assert not ledger.candidates.set_state("c0099", CandidateState.OPEN, CandidateState.DISCARDED, "no one")
    assert ledger.events.list("t") == events
    assert ledger.candidates.set_state(wide.id, CandidateState.OPEN, CandidateState.CONTENDER, "by hand")
    assert ledger.candidates.get("wide", "t").state is CandidateState.CONTENDER


def test_cancelling_a_candidate_cancels_what_is_left_of_its_runs(ledger: Ledger) -> None:
    wide = add_candidate(ledger, "wide", runs=3)
    done, under_way, _ = ledger.runs.of_candidate(wide.id)
    finish(ledger, done, ok(1.8))
    ledger.runs.lease(under_way.id, SLOT, 2000.0)
    to_stop = ledger.candidates.cancel(wide.id, "changed my mind")
    assert to_stop is not None
    assert [run.id for run in to_stop] == [under_way.id]
    assert [type(run.state) for run in ledger.runs.of_candidate(wide.id)] == [Finished, Cancelled, Cancelled]
    assert ledger.candidates.get("wide", "t").state is CandidateState.CANCELLED
    assert ledger.candidates.cancel(wide.id, "again") is None
    assert ledger.candidates.cancel("c0001", "not the baseline") is None


# The board


def test_the_board_counts_what_there_is(ledger: Ledger) -> None:
    wide = add_candidate(ledger, "wide", runs=5)
    scored, suspect, crashed, cancelled, _ = ledger.runs.of_candidate(wide.id)
    finish(ledger, suspect, result_of("suspect: steps differ", val_bpb=1.7))
    finish(ledger, scored, ok(1.8))
    finish(ledger, crashed, result_of("timeout: train", reason="no end"))
    ledger.runs.cancel(cancelled.id, "one too many")
    standing = ledger.board("t").of(wide.id)
    assert standing.scores == (1.7, 1.8)  # in the order they came
    assert (standing.pending_runs, standing.failed_runs, standing.suspect_scores) == (1, 1, 1)
    assert standing.failure == "timeout: train: no end"
    assert standing.base_id == "c0001"


def test_scores_of_another_pool_are_not_compared(ledger: Ledger) -> None:
    wide = add_candidate(ledger, "wide", runs=2)
    here, there = ledger.runs.of_candidate(wide.id)
    finish(ledger, here, ok(1.8))
    finish(ledger, there, ok(0.9), replace(SLOT, pool="pool-b"))
    standing = ledger.board("t").of(wide.id)
    assert (standing.scores, standing.failed_runs) == ((1.8,), 1)
    assert standing.failure == "not comparable: measured on pool-b, the baseline on pool-a"


def test_a_lab_without_a_baseline_says_how_to_go_on(ledger: Ledger) -> None:
    ledger.labs.create(make_lab("half"))
    with pytest.raises(LabProblem, match="no baseline") as problem:
        ledger.board("half")
    assert "arsched init --tag half" in problem.value.hint


def test_labs_do_not_see_each_other(ledger: Ledger) -> None:
    start_lab(ledger, "other", (1.5,))
    measure(ledger, add_candidate(ledger, "wide"), 1.8)
    assert [s.scores for s in ledger.board("other").standings] == [(1.5,)]
    assert len(ledger.board("t").standings) == 2
    assert {event.tag for event in ledger.events.list("other")} == {"other"}


# The history


@pytest.mark.parametrize("statement", ["UPDATE event SET reason = 'nicer'", "DELETE FROM event"])
def test_the_history_cannot_be_rewritten(ledger: Ledger, path: Path, statement: str) -> None:
    before = ledger.events.list("t")
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    assert ledger.events.list("t") == before


def test_the_history_is_read_oldest_first_and_from_its_end(ledger: Ledger) -> None:
    add_candidate(ledger, "wide")
    every = ledger.events.list("t")
    assert [event.number for event in every] == sorted(event.number for event in every)
    assert ledger.events.list("t", limit=2) == every[-2:]
    assert (every[-2].subject, every[-2].from_state, every[-2].to_state) == ("c0002", "", "open")
