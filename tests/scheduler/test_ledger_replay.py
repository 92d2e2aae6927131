"""A night of the shipped policies on a real ledger: every decision can be taken again from what the ledger kept."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scheduler.adapters.ledger import Ledger
from scheduler.domain.decision import DecisionRecord, Discard, Promote, Replicate
from scheduler.policy.decide import decide
from scheduler.policy.gates import judge_candidate
from scheduler.policy.noise import board_noise
from tests.scheduler.ledger_kit import add_candidate, broken_invariants, finish, ok, open_ledger, result_of, start_lab

CANDIDATES = 30
SIGMA = 0.005


def play_a_night(ledger: Ledger, seed: int) -> None:
    """Candidates with true effects, some of them crashing; results come in a random order, decisions at once."""
    rng = random.Random(seed)
    start_lab(ledger, scores=())
    truth = {"c0001": 1.90}
    while len(truth) <= CANDIDATES or ledger.runs.queued("t"):
        if len(truth) <= CANDIDATES and rng.random() < 0.5:
            base_id = ledger.board("t").baseline_id
            candidate = add_candidate(ledger, f"idea-{len(truth)}", base_id=base_id)
            truth[candidate.id] = truth[base_id] + rng.gauss(0, SIGMA)
        elif queued := ledger.runs.queued("t"):
            run = rng.choice(queued)
            crashed = run.candidate_id != "c0001" and rng.random() < 0.1
            score = rng.gauss(truth[run.candidate_id], SIGMA)
            finish(ledger, run, result_of("crash", reason="exit status 1") if crashed else ok(score))
        while decision := decide(board := ledger.board("t")):
            ledger.decisions.apply("t", decision, noise=board_noise(board), sentence="said", commit="f" * 40)


def test_the_decisions_of_three_nights_replay_to_the_same_verdicts(tmp_path: Path) -> None:
    kinds: Counter[str] = Counter()
    for seed in (1, 2, 3):
        path = tmp_path / f"{seed}.db"
        with open_ledger(path) as ledger:
            play_a_night(ledger, seed)
        with open_ledger(path) as ledger:
            history = ledger.decisions.history("t")
            _judge_again(history)
            kinds.update(record.kind for record in history)
            assert [p.candidate_id for p in ledger.decisions.promotions("t")] == [
                record.candidate.candidate_id for record in history if record.kind == "promote"
            ]
            assert ledger.board("t").undecided == ()
        assert broken_invariants(path) == []
    assert kinds.keys() >= {"promote", "replicate", "discard", "measure-baseline"}


def _judge_again(history: Sequence[DecisionRecord]) -> None:
    for record in history:
        if isinstance(record.decision, Promote | Replicate | Discard) and record.decision.effect:
            assert judge_candidate(record.candidate, record.base, record.noise, record.gates) == record.decision
