"""Cheap questions about a lab of many candidates say the same as reading everything does; damaged rows are named."""

from __future__ import annotations

import io
import math
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.domain.decision import Combine, DecisionRecord
from scheduler.domain.errors import LabProblem, LedgerProblem
from scheduler.domain.lab import Event
from scheduler.domain.run import Cancelled, Finished, Queued, Running, Scored
from scheduler.domain.search import ProposerChoice, SearchBudget, SearchSettings
from scheduler.ledger import Ledger
from tests.scheduler.ledger_kit import SLOT, Clock, ok, open_ledger, start_lab
from tests.scheduler.ledger_writer import Life

STEPS = 400


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab in which everything that can happen has happened, in an order of chance."""
    path = tmp_path_factory.mktemp("lab") / "ledger.db"
    clock = Clock()
    with open_ledger(path, clock) as ledger:
        start_lab(ledger)
        life = Life(ledger, random.Random(7), "7", io.StringIO())
        for _ in range(STEPS):
            clock.now += 1.0
            life.step()
        ledger.labs.pause("t", "a break")
        run = next(run for run in ledger.runs.list("t") if run.attempts)
        ledger.runs.record(run.id, 99, ok(1.0))  # refused
    return path


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path) as ledger:
        yield ledger


def test_the_lab_has_something_of_everything(ledger: Ledger) -> None:
    assert {type(run.state) for run in ledger.runs.list("t")} == {Queued, Running, Finished, Cancelled}
    assert {record.kind for record in ledger.decisions.history("t")} >= {"promote", "shelve", "combine", "discard"}
    assert len(ledger.candidates.list("t")) > 30 and ledger.runs.last_failures("t")


def test_runs_are_counted_as_they_are_listed(ledger: Ledger) -> None:
    counted = Counter(
        (run.kind.value, type(run.state).__name__.lower(), family_of(run.state)) for run in ledger.runs.list("t")
    )
    assert {(c.kind, c.state, c.family): c.runs for c in ledger.runs.counts("t")} == counted
    assert ledger.runs.counts("another lab") == ()


def family_of(state: object) -> str:
    return type(state.result.verdict).__name__.lower() if isinstance(state, Finished) else ""


def test_queued_and_running_runs_are_those_of_the_list(ledger: Ledger) -> None:
    runs = ledger.runs.list("t")
    assert set(ledger.runs.queued("t")) == {run for run in runs if isinstance(run.state, Queued)}
    assert ledger.runs.running("t") == tuple(run for run in runs if isinstance(run.state, Running))


def test_all_attempts_are_those_of_each_run_since_it_was_queued_with_its_judges_times(ledger: Ledger) -> None:
    queued_at = defaultdict(list)
    for event in ledger.events.list("t"):
        if event.to_state == "queued":
            queued_at[event.subject].append(event.at)
    rows = iter(ledger.runs.all_attempts("t"))
    for run in ledger.runs.list("t"):
        for attempt in ledger.runs.attempts(run.id):
            row = next(rows)
            assert (row.run_id, row.candidate_id, row.kind, row.number) == (
                *(run.id, run.candidate_id, run.kind.value, attempt.number),
            )
            assert (row.slot_id, row.started_at, row.ended_at, row.outcome) == (
                *(attempt.slot_id, attempt.started_at, attempt.ended_at, attempt.outcome),
            )
            assert row.queued_at == queued_at[run.id][attempt.number - 1]
            is_last = isinstance(run.state, Finished) and run.state.attempt == attempt.number
            assert bool(row.has_result) == is_last
    assert next(rows, None) is None


def test_the_figures_kept_in_columns_are_those_of_the_judges_text(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        start_lab(ledger, scores=())
        more = {"phases_s": {"import": 1.5, "train": 20.5}, "wall_s": 24.0}
        for peak in (412.5, 400.0):
            run = ledger.runs.add("c0001", ledger.runs.list("t")[0].kind, "")
            attempt = ledger.runs.lease(run.id, SLOT, 2000.0)
            assert attempt and ledger.runs.record(run.id, attempt, ok(1.9, peak_memory_mb=peak, **more))
        assert [(row.wall_s, row.train_s) for row in ledger.runs.all_attempts("t")] == [(24.0, 20.5)] * 2
        assert ledger.runs.peak_memory_mb("t") == {"c0001": 412.5}


def test_the_last_failure_is_that_of_the_last_run_without_a_score(ledger: Ledger) -> None:
    expected = {}
    for run in ledger.runs.list("t"):
        if isinstance(run.state, Finished) and not isinstance(run.state.result.verdict, Scored):
            expected[run.candidate_id] = run.state.result.verdict.status
    assert ledger.runs.last_failures("t") == expected


def test_the_first_baseline_is_the_first_of_the_list(ledger: Ledger) -> None:
    everything = ledger.candidates.list("t")
    assert ledger.candidates.first("t") == everything[0] and ledger.candidates.first("another lab") is None


def test_the_sentences_of_decisions_are_those_of_their_records(ledger: Ledger) -> None:
    records = ledger.decisions.history("t")
    assert len(records) > 40
    assert ledger.decisions.sentences("t", last=len(records)) == tuple(record.sentence for record in records)
    assert ledger.decisions.sentences("t", last=3) == tuple(record.sentence for record in records[-3:])


def test_the_decisions_on_a_candidate_are_those_of_the_history(ledger: Ledger) -> None:
    history = ledger.decisions.history("t")
    for candidate in ledger.candidates.list("t"):
        mine = tuple(record for record in history if candidate.id in about(record))
        assert ledger.decisions.of_candidate(candidate.id) == mine


def about(record: DecisionRecord) -> tuple[str, ...]:
    return record.decision.parts if isinstance(record.decision, Combine) else (record.candidate.candidate_id,)


def test_events_of_interest_leave_out_the_daily_life(ledger: Ledger) -> None:
    def is_of_interest(event: Event) -> bool:
        lost = (event.from_state, event.to_state) == ("running", "queued")
        return event.subject[0] not in "crp" or "." in event.subject or event.to_state == "baseline" or lost

    everything = ledger.events.list("t")
    expected = tuple(filter(is_of_interest, everything))
    assert {event.subject for event in expected} >= {"lab"} and any("." in event.subject for event in expected)
    assert ledger.events.of_interest("t", 10**6) == expected
    assert ledger.events.of_interest("t", 3) == expected[-3:]
    assert ledger.events.last("t") == everything[-1] and ledger.events.last("another lab") is None


def test_what_is_kept_until_something_is_written(path: Path) -> None:
    calls = []

    def read(what: str) -> int:
        calls.append(what)
        return len(calls)

    with open_ledger(path) as ours, open_ledger(path) as theirs:
        kept = ours.per_stamp(read)
        assert [kept("a"), kept("b"), kept("a")] == [1, 2, 1]
        theirs.labs.resume("t")
        assert kept("a") == 3
        with pytest.raises(KeyboardInterrupt), ours.transaction():
            assert (kept("a"), kept("a")) == (4, 5)  # what is read here may be undone
            raise KeyboardInterrupt
        queued = ours.runs.queued("t")
        assert ours.runs.queued("t") is queued
        theirs.runs.cancel(queued[0].id, "changed my mind")
        assert ours.runs.queued("t") == queued[1:]


# Damaged and foreign rows.


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "l.db"
    with open_ledger(path) as ledger:
        start_lab(ledger)
        ledger.searches.start("t", SETTINGS)
        life = Life(ledger, random.Random(3), "3", io.StringIO())
        while len(ledger.decisions.history("t")) < 12:
            life.step()
    return path


SETTINGS = SearchSettings(
    SearchBudget(hours=math.inf, runs=9), (ProposerChoice("agent", 2.5, (("command", "a b"),)), ProposerChoice("tpe"))
)


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for name in ("decision", "claim", "merge"):
            connection.execute(f"DROP TRIGGER {name}_refuses_update")
        assert connection.execute(statement).rowcount


@pytest.mark.parametrize("text", ["{", "[]", '{"candidate": 5}', ""])
def test_a_decision_that_cannot_be_read_is_named_and_the_others_are_read(lab: Path, text: str) -> None:
    with open_ledger(lab) as ledger:
        last = ledger.decisions.history("t")[-1]
        others = [c.id for c in ledger.candidates.list("t") if last not in ledger.decisions.of_candidate(c.id)]
    change(lab, f"UPDATE decision SET taken_from = '{text}' WHERE number = (SELECT max(number) FROM decision)")
    with open_ledger(lab) as ledger:
        with pytest.raises(LedgerProblem, match=r"decision \d+ in the ledger is unreadable"):
            ledger.decisions.history("t")
        assert others and [ledger.decisions.of_candidate(ref) for ref in others]
        assert len(ledger.decisions.sentences("t", last=99)) == 12


def test_settings_that_cannot_be_read_are_named(lab: Path) -> None:
    change(lab, "UPDATE search SET settings = '{\"budget\": 5}'")
    change_gates = "UPDATE lab SET gates = 'no JSON'"
    with open_ledger(lab) as ledger, pytest.raises(LedgerProblem, match=r"settings of search s0001 .* unreadable"):
        ledger.searches.current("t")
    with closing(sqlite3.connect(lab)) as connection, connection:
        connection.execute(change_gates)
    with open_ledger(lab) as ledger, pytest.raises(LedgerProblem, match=r"settings of lab 't' .* unreadable"):
        ledger.board("t")


def test_a_limit_without_end_and_every_other_setting_come_back(lab: Path) -> None:
    with open_ledger(lab) as ledger:
        search = ledger.searches.current("t")
        assert search is not None and search.settings == SETTINGS


def test_settings_of_another_version_are_read_as_far_as_they_are_known(lab: Path) -> None:
    change(lab, """UPDATE search SET settings = '{"budget": {"runs": 9, "energy": 1}, "proposers": [], "new": 2}'""")
    with open_ledger(lab) as ledger:
        assert ledger.searches.list("t")[0].settings == SearchSettings(SearchBudget(runs=9), ())


def test_a_lab_without_baseline_says_so_and_an_unknown_one_too(tmp_path: Path, lab: Path) -> None:
    with open_ledger(lab) as ledger, pytest.raises(LabProblem, match="no lab 'u'"):
        ledger.board("u")
