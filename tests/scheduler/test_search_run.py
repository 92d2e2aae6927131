"""A search from its first ask to its claim: budgets, supply, troubles, ends and restarts, on a virtual clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.app.queue.ending import Ending
from scheduler.domain.candidate import CandidateState, Origin
from scheduler.domain.proposal import ProposalState
from scheduler.domain.run import RunKind
from scheduler.domain.search import SearchState
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.search_kit import SearchLab, idea, scores, settings

OTHERS = tuple(kind for kind in RunKind if kind is not RunKind.CLAIM)


@pytest.fixture
def lab(tmp_path: Path) -> SearchLab:
    return SearchLab(tmp_path)


def test_a_search_promotes_what_is_better_and_ends_with_a_claim_on_fresh_runs(lab: SearchLab) -> None:
    ended = lab.search(settings(runs=12), lab.fake(scores(2.0, 1.7, 2.1, 1.95)))
    assert (ended.ending, ended.state) == (Ending.DONE, SearchState.ENDED)
    (promotion,) = lab.space.ledger.decisions.promotions("t")
    promoted = lab.candidate(promotion.candidate_id)
    assert promoted.origin is Origin.PROPOSED and promoted.proposer == "fake" and promoted.round == 1
    (claim,) = lab.claims
    assert (claim.first_id, claim.final_id) == ("c0001", promoted.id)
    assert len(claim.first_scores) == len(claim.final_scores) == 2
    assert claim.diff == pytest.approx(-0.2, abs=0.01) and claim.excludes_zero
    assert all(not standing.state.undecided for standing in lab.space.ledger.board("t").standings)
    assert not broken_invariants(lab.space.paths.ledger)
