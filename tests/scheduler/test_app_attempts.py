"""What becomes of a run whose attempts give no result that counts: for their nonce, and for the slots they ended on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.domain.slot import RunOrder
from tests.scheduler.lab_kit import PlayedLab, as_the_source_says
from tests.scheduler.memory_pool import Finishes, Outcome


def forging(nonce: object) -> object:
    """Every candidate but the baseline leaves a result with that nonce."""

    def outcome(order: RunOrder) -> Outcome:
        made = as_the_source_says(order)
        assert isinstance(made, Finishes)
        if b"FORGED" not in order.train_py:
            return made
        return Finishes(json.dumps(json.loads(made.result_text) | {"nonce": nonce}))

    return outcome


def test_every_attempt_has_a_nonce_of_its_own_and_the_ledger_knows_it(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    played.run()
    nonces = {order.key: order.nonce for order in played.pool.started}
    assert len(set(nonces.values())) == 3 and {len(nonce) for nonce in nonces.values()} == {32}
    assert nonces == {key: played.space.ledger.runs.nonce(key.partition(".")[0], 1) for key in nonces}


@pytest.mark.parametrize("nonce", [None, "", "beef" * 8, 7, ["x"]])
def test_a_result_with_another_nonce_never_counts(tmp_path: Path, nonce: object) -> None:
    played = PlayedLab(tmp_path, outcome=forging(nonce))
    played.submit("forged", "SCORE = 0.1\nFORGED = True\n")
    played.run()
    assert played.candidate("baseline").state == "baseline"
    assert not played.space.ledger.board("t").of("c0002").scores
    assert played.screen.said("does not say the attempt's nonce")


def test_results_of_attempts_from_before_there_were_nonces_are_lost(tmp_path: Path) -> None:
    """As where an older arsched left them on a cluster."""
    played = PlayedLab(tmp_path)
    played.outlives_us = True
    run, slot = played.space.ledger.runs.queued("t")[0], played.pool.slots()[0]
    assert played.space.ledger.runs.lease(run.id, slot, 10**9) == 1
    played.pool.start(slot.id, _order(played, run.id))
    played.run()
    first, second = played.space.ledger.runs.attempts(run.id)
    assert (first.outcome, second.outcome) == ("lost", "ok")


def _order(played: PlayedLab, run_id: str) -> RunOrder:
    lab, candidate = played.space.lab, played.candidate("baseline")
    train_py = played.space.ledger.candidates.train_py(candidate.id)
    return RunOrder(
        lab.lab_id, run_id, 1, train_py, candidate.train_sha256, lab.contract_json, lab.cache_digest, seed=1, nonce=""
    )
