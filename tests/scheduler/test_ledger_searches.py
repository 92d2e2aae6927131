"""Searches, proposals, claims and pauses in the ledger: each moves once, from the state it names, and is read back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.domain.candidate import NewCandidate, Origin, Source
from scheduler.domain.decision import Claim
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.search import (
    Proposal,
    ProposalFailure,
    ProposalState,
    ProposerChoice,
    SearchBudget,
    SearchSettings,
    SearchState,
)
from scheduler.ledger import Ledger
from tests.scheduler.ledger_kit import Clock, add_candidate, broken_invariants, make_lab, open_ledger, start_lab

SETTINGS = SearchSettings(
    budget=SearchBudget(hours=8.0, runs=700, rounds=3, ideas=8, target_bpb=0.97),
    proposers=(ProposerChoice("tpe"), ProposerChoice("agent", 2.5, (("command", "ask 'me' -n"), ("limit", "900")))),
    backlog=12,
    claim_runs=3,
    seed=42,
)
CLAIM = Claim("c0001", "c0002", (1.0, 1.1), (0.9, 0.95), -0.125, 0.1 + 0.2, 13.0, -0.3, 1 / 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[Ledger]:
    with open_ledger(path, clock) as ledger:
        start_lab(ledger)
        yield ledger
    assert broken_invariants(path) == []


def test_a_search_is_read_back_with_all_its_settings(ledger: Ledger) -> None:
    search = ledger.searches.start("t", SETTINGS)
    assert (search.number, search.tag, search.settings) == (1, "t", SETTINGS)
    assert (search.started_at, search.active_s, search.state, search.reason) == (1000.0, 0.0, SearchState.RUNNING, "")
    assert ledger.searches.current("t") == search == ledger.searches.list("t")[0]


def test_a_lab_has_one_search_at_a_time_and_another_lab_its_own(ledger: Ledger) -> None:
    ledger.labs.create(make_lab("u"))
    ledger.searches.start("t", SETTINGS)
    with pytest.raises(LedgerProblem, match="the search s0001, which is running"):
        ledger.searches.start("t", SETTINGS)
    assert ledger.searches.current("u") is None
    assert ledger.searches.start("u", SETTINGS).number == 2
    for step in ((SearchState.RUNNING, SearchState.CLAIMING), (SearchState.CLAIMING, SearchState.ENDED)):
        assert ledger.searches.move(1, *step, "8 hours are over")
    assert ledger.searches.current("t") is None
    assert ledger.searches.start("t", SETTINGS).number == 3
    assert [s.state for s in ledger.searches.list("t")] == [SearchState.ENDED, SearchState.RUNNING]


def test_a_search_moves_only_from_where_it_is(ledger: Ledger) -> None:
    ledger.searches.start("t", SETTINGS)
    assert ledger.searches.move(1, SearchState.RUNNING, SearchState.CLAIMING, "700 runs are done")
    assert not ledger.searches.move(1, SearchState.RUNNING, SearchState.ENDED, "too late")
    search = ledger.searches.get(1)
    assert (search.state, search.reason) == (SearchState.CLAIMING, "700 runs are done")
    with pytest.raises(LedgerProblem, match="no search s0009"):
        ledger.searches.get(9)


def test_time_adds_up_and_settings_can_be_extended(ledger: Ledger) -> None:
    ledger.searches.start("t", SETTINGS)
    for _ in range(3):
        ledger.searches.tick(1, 2.5)
    ledger.searches.change(1, SearchSettings(SearchBudget(hours=9.0), ()), "an hour more")
    search = ledger.searches.get(1)
    assert (search.active_s, search.settings.budget) == (7.5, SearchBudget(hours=9.0))


def test_settings_of_another_program_are_read_as_far_as_they_are_known(ledger: Ledger, path: Path) -> None:
    ledger.searches.start("t", SETTINGS)
    theirs = {
        "budget": {"runs": 5, "kilowatts": 3},
        "proposers": [{"name": "tpe", "colour": "red"}],
        "mood": "good",
    }
    ledger._database.execute("UPDATE search SET settings = ?", json.dumps(theirs))
    assert ledger.searches.get(1).settings == SearchSettings(SearchBudget(runs=5), (ProposerChoice("tpe"),))


@pytest.fixture
def ask(ledger: Ledger, clock: Clock) -> str:
    ledger.searches.start("t", SETTINGS)
    ref = ledger.proposals.ask("t", 1, "tpe", "c0001", round=2, seed=77)
    clock.now += 60
    return ref


def test_an_ask_is_open_until_it_is_answered(ledger: Ledger, ask: str) -> None:
    assert ask == "p0001"
    assert ledger.proposals.list("t") == (
        Proposal(ask, 1, "tpe", "c0001", 2, 77, ProposalState.ASKED, None, "", "", "", "", 1000.0, None),
    )


def test_an_idea_becomes_a_candidate_together_with_its_answer_or_not_at_all(ledger: Ledger, ask: str) -> None:
    with pytest.raises(RuntimeError), ledger.transaction():
        candidate = add_candidate(ledger, "wide")
        ledger.proposals.queued(ask, candidate.id, "wider")
        raise RuntimeError
    assert [c.name for c in ledger.candidates.list("t")] == ["baseline"]
    assert ledger.proposals.list("t")[0].state is ProposalState.ASKED
    with ledger.transaction():
        candidate = add_candidate(ledger, "wide")
        ledger.proposals.queued(ask, candidate.id, "wider", log="thought hard")
    (proposal,) = ledger.proposals.list("t")
    assert (proposal.state, proposal.candidate_id, proposal.title) == (ProposalState.QUEUED, candidate.id, "wider")
    assert (proposal.log, proposal.answered_at, proposal.trouble) == ("thought hard", 1060.0, "")


def test_a_known_program_leads_to_its_candidate(ledger: Ledger, ask: str) -> None:
    ledger.proposals.known(ask, "c0001", "as it was")
    (proposal,) = ledger.proposals.list("t")
    assert (proposal.state, proposal.candidate_id) == (ProposalState.KNOWN, "c0001")


def test_trouble_is_kept_with_what_was_said(ledger: Ledger, ask: str) -> None:
    ledger.proposals.failed(ask, ProposalFailure.REFUSED, "changes harness/", title="cheat", log="\x1b[31mred \ud800")
    (proposal,) = ledger.proposals.list("t")
    assert (proposal.state, proposal.candidate_id, proposal.title) == (ProposalState.FAILED, None, "cheat")
    assert (proposal.trouble, proposal.reason, proposal.log) == ("refused", "changes harness/", "\x1b[31mred ?")


ANSWERS: dict[str, Callable[[Ledger, str], None]] = {
    "queued": lambda ledger, ask: ledger.proposals.queued(ask, "c0001", "again"),
    "known": lambda ledger, ask: ledger.proposals.known(ask, "c0001", "again"),
    "failed": lambda ledger, ask: ledger.proposals.failed(ask, ProposalFailure.CRASHED, "again"),
}


@pytest.mark.parametrize("first", ANSWERS)
@pytest.mark.parametrize("second", ANSWERS)
def test_an_ask_is_answered_once(ledger: Ledger, ask: str, first: str, second: str) -> None:
    ANSWERS[first](ledger, ask)
    before = (ledger.proposals.list("t"), ledger.events.list("t"))
    with pytest.raises(LedgerProblem, match="p0001 is no open ask"):
        ANSWERS[second](ledger, ask)
    assert (ledger.proposals.list("t"), ledger.events.list("t")) == before


def test_asks_of_a_scheduler_that_died_are_closed(ledger: Ledger, ask: str) -> None:
    ledger.labs.create(make_lab("u"))
    ledger.proposals.failed(ask, ProposalFailure.TIMED_OUT, "900 s")
    lost = [ledger.proposals.ask("t", 1, "agent", "c0001", 2, seed) for seed in (78, 79)]
    assert ledger.proposals.lose_open("u", "gone") == 0
    assert ledger.proposals.lose_open("t", "the scheduler ended") == 2
    assert ledger.proposals.lose_open("t", "the scheduler ended") == 0
    closed = ledger.proposals.list("t")[1:]
    assert [(p.id, p.trouble, p.reason) for p in closed] == [(ref, "stopped", "the scheduler ended") for ref in lost]


def test_a_claim_is_made_once_and_comes_back_to_the_last_bit(ledger: Ledger, path: Path) -> None:
    ledger.searches.start("t", SETTINGS)
    assert ledger.claims.of_search(1) is None
    ledger.claims.record("t", 1, CLAIM)
    assert ledger.claims.of_search(1) == CLAIM and ledger.claims.list("t") == (CLAIM,)
    with pytest.raises(LedgerProblem, match="s0001 has its claim already"):
        ledger.claims.record("t", 1, CLAIM)
    for statement in ("UPDATE claim SET claim = claim", "DELETE FROM claim"):
        with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)


def test_an_idea_keeps_who_had_it_and_why(ledger: Ledger) -> None:
    idea = NewCandidate(
        Source(b"X = 1\n", "s", "f", 120),
        name="wide",
        commit="c",
        base_id="c0001",
        title="wider",
        author="tpe",
        origin=Origin.PROPOSED,
        proposer="tpe",
        hypothesis="wider\nis better",
        theme="width",
        round=3,
    )
    new = ledger.candidates.add("t", idea)
    assert ledger.candidates.get(new.id, "t") == new
    assert (new.origin, new.proposer, new.hypothesis, new.theme, new.round, new.code_lines) == (
        *(Origin.PROPOSED, "tpe", "wider\nis better", "width"),
        *(3, 120),
    )
    standing = ledger.board("t").of(new.id)
    assert (standing.origin, standing.code_lines) == (Origin.PROPOSED, 120)


def test_a_lab_is_paused_once_and_goes_on_once(ledger: Ledger) -> None:
    assert ledger.labs.pause("t", "lunch")
    assert not ledger.labs.pause("t", "again")
    assert ledger.labs.get("t").paused_at == 1000.0
    assert ledger.labs.resume("t")
    assert not ledger.labs.resume("t")
    assert ledger.labs.get("t").paused_at is None
    assert [(e.to_state, e.reason) for e in ledger.events.list("t")][-2:] == [("paused", "lunch"), ("resumed", "")]
