"""What becomes of a run whose attempts give no result that counts: for their nonce, and for the slots they ended on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from scheduler.domain.run import Attempt, Failed, Finished, Infra, Queued, Run, RunKind, Scored, parse_result
from scheduler.domain.slot import RunOrder
from scheduler.policy.dispatch import pair_runs
from scheduler.policy.no_result import SUSPICIOUS, charge, held_against
from tests.scheduler.lab_kit import PlayedLab, as_the_source_says
from tests.scheduler.memory_pool import Finishes, Outcome, Vanishes


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


def verdict_of(played: PlayedLab, ref: str) -> Failed | Infra:
    (run,) = played.space.ledger.runs.of_candidate(ref)
    assert isinstance(run.state, Finished)
    verdict = run.state.result.verdict
    assert not isinstance(verdict, Scored)
    return verdict


def judged(status: str, launched: bool = True) -> object:
    """Every candidate but the baseline gets that status from its judge."""

    def outcome(order: RunOrder) -> Outcome:
        if b"BAD" not in order.train_py:
            return as_the_source_says(order)
        return Finishes(json.dumps({"format": 1, "status": status, "reason": "why", "launched": launched}))

    return outcome


def test_a_run_that_two_slots_lose_is_its_candidates_failure(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    played.submit("killer", "DIES = 'the judge was killed'\n")
    played.run()
    verdict = verdict_of(played, "c0002")
    assert isinstance(verdict, Failed) and verdict.status == "invalid: no-result"
    assert all(words in verdict.reason for words in ("memory/cpu0", "memory/cpu1", "the judge was killed"))
    assert played.state("killer") == "failed"
    assert {attempt.slot_id for attempt in played.space.ledger.runs.attempts("r0004")} == {"memory/cpu0", "memory/cpu1"}


def test_a_slot_that_loses_a_run_three_times_is_the_labs_fault(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, slots=1)
    played.submit("unlucky", "DIES = 'the judge was killed'\n")
    played.run()
    assert verdict_of(played, "c0002").status == "infra: lost"


@pytest.mark.parametrize("word", SUSPICIOUS)
def test_infra_after_the_launch_on_two_slots_is_the_candidates_failure(tmp_path: Path, word: str) -> None:
    played = PlayedLab(tmp_path, outcome=judged(f"infra: {word}"))
    played.submit("bad", "BAD = 1\n")
    played.run()
    assert f"infra: {word}: why; on" in verdict_of(played, "c0002").reason
    assert verdict_of(played, "c0002").status == "invalid: no-result"


@pytest.mark.parametrize(
    ("word", "launched"),
    [("cache", True), ("lock", True), ("sandbox", True), ("disk", True), ("interrupted", True), ("judge", False)],
)
def test_other_infra_and_infra_before_the_launch_is_the_labs_fault(tmp_path: Path, word: str, launched: bool) -> None:
    played = PlayedLab(tmp_path, outcome=judged(f"infra: {word}", launched))
    played.submit("bad", "BAD = 1\n")
    played.run()
    assert verdict_of(played, "c0002").status == f"infra: {word}"


def test_nodes_that_die_under_runs_are_no_fault_of_theirs(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, slots=4)
    played.submit("innocent", "SCORE = 2.0\n")

    def lose_two_slots() -> None:
        for slot in ("memory/cpu0", "memory/cpu1", "memory/cpu2"):
            known = {slot.id: slot for slot in played.pool.slots()}
            if len(known) > 1 and slot in known and any(run.attempts for run in played.space.ledger.runs.running("t")):
                played.pool.lose_slot(slot)

    played.each_round = lose_two_slots
    played.run()
    assert played.space.ledger.board("t").of("c0002").scores
    assert any(run.attempts > 1 for run in played.space.ledger.runs.list("t"))


def killed_until(attempt: int) -> object:
    """Something kills the judge of every candidate but the baseline, up to that attempt of a run."""

    def outcome(order: RunOrder) -> Outcome:
        if b"UNLUCKY" in order.train_py and order.attempt <= attempt:
            return Vanishes("its judge was ended by signal 9 from outside", 1.0, from_outside=True)
        return as_the_source_says(order)

    return outcome


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("kills", [1, 2])
def test_a_run_whose_judge_something_killed_is_run_again_with_its_seed(tmp_path: Path, slots: int, kills: int) -> None:
    played = PlayedLab(tmp_path, slots, killed_until(kills))
    played.submit("honest", "SCORE = 2.0\nUNLUCKY = 1\n")
    played.run()
    (run,) = played.space.ledger.runs.of_candidate("c0002")
    assert isinstance(run.state, Finished) and isinstance(run.state.result.verdict, Scored)
    attempts = played.space.ledger.runs.attempts(run.id)
    assert [one.outcome for one in attempts] == ["lost"] * kills + ["ok"] and not any(one.charge for one in attempts)
    assert len({order.seed for order in played.pool.started if order.run_id == run.id}) == 1


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_judge_that_is_killed_three_times_ends_the_run_without_a_score_and_not_as_invalid(
    tmp_path: Path, slots: int
) -> None:
    played = PlayedLab(tmp_path, slots, killed_until(9))
    played.submit("unlucky", "SCORE = 0.1\nUNLUCKY = 1\n")
    played.run()
    assert verdict_of(played, "c0002") == Infra("infra: lost", "its judge was ended by signal 9 from outside")
    (run,) = played.space.ledger.runs.of_candidate("c0002")
    assert run.attempts == 3 and played.candidate("baseline").state == "baseline"
    assert not played.space.ledger.board("t").of("c0002").scores


@pytest.mark.parametrize("kind", ["killed", "throttled"])
def test_attempts_that_were_throttled_are_none_of_the_three_that_may_be_lost(tmp_path: Path, kind: str) -> None:
    """Whether the slot throttles before the two losses or after them."""

    def outcome(order: RunOrder) -> Outcome:
        if b"UNLUCKY" not in order.train_py or order.attempt > 3:
            return as_the_source_says(order)
        if order.attempt != (3 if kind == "killed" else 1):
            return Vanishes("its judge was ended by signal 9 from outside", 1.0, from_outside=True)
        made = as_the_source_says(order)
        assert isinstance(made, Finishes)
        return Finishes(json.dumps(json.loads(made.result_text) | {"status": "suspect: throttled"}))

    played = PlayedLab(tmp_path, outcome=outcome)
    played.submit("honest", "SCORE = 2.0\nUNLUCKY = 1\n")
    played.run()
    (run,) = played.space.ledger.runs.of_candidate("c0002")
    outcomes = sorted(one.outcome for one in played.space.ledger.runs.attempts(run.id))
    assert outcomes == ["lost", "lost", "ok", "suspect: throttled"]


def throttled_on(played_slots: set[str], places: dict[str, str]) -> object:
    """Runs on these slots are slowed down; `places` is filled with where each attempt ran."""

    def outcome(order: RunOrder) -> Outcome:
        made = as_the_source_says(order)
        assert isinstance(made, Finishes)
        if places[order.key] not in played_slots:
            return made
        machine = {"throttled": ["power brake"], "throttled_share": 0.34, "energy_j": 9.0}
        return Finishes(json.dumps(json.loads(made.result_text) | {"status": "suspect: throttled", "machine": machine}))

    return outcome


def play_throttled(tmp_path: Path, slow: set[str], slots: int = 2) -> PlayedLab:
    places: dict[str, str] = {}
    played = PlayedLab(tmp_path, slots=slots, outcome=throttled_on(slow, places))
    start = played.pool.start

    def noted(slot_id: str, order: RunOrder) -> None:
        places[order.key] = slot_id
        start(slot_id, order)

    played.pool.start = noted  # type: ignore[method-assign]
    played.submit("idea", "SCORE = 2.0\n")
    played.run()
    return played


def test_a_throttled_run_is_measured_again_with_its_seed_on_another_slot(tmp_path: Path) -> None:
    played = play_throttled(tmp_path, {"memory/cpu1"})
    runs = [run for run in played.space.ledger.runs.list("t") if isinstance(run.state, Finished)]
    assert {run.state.result.verdict.status for run in runs if isinstance(run.state, Finished)} == {"ok"}
    attempts = {run.id: played.space.ledger.runs.attempts(run.id) for run in runs}
    repeated = [its for its in attempts.values() if len(its) > 1]
    assert repeated and all([one.outcome for one in its] == ["suspect: throttled", "ok"] for its in repeated)
    assert all([one.slot_id for one in its] == ["memory/cpu1", "memory/cpu0"] for its in repeated)
    assert played.screen.said("memory/cpu1 was slowed down for 34 % of the training (power brake)")
    assert played.space.ledger.board("t").of("c0002").failed_runs == 0


def test_where_every_slot_throttles_the_second_score_is_kept_as_a_suspect_one(tmp_path: Path) -> None:
    played = play_throttled(tmp_path, {"memory/cpu0"}, slots=1)
    for run in played.space.ledger.runs.list("t"):
        assert run.attempts == 2 and isinstance(run.state, Finished)
        assert run.state.result.verdict.status == "suspect: throttled"
    assert played.space.ledger.board("t").of("c0001").suspect_scores == 3


def attempt(number: int, slot_id: str, charge: str) -> Attempt:
    return Attempt(number, slot_id, "boot", 1.0, 2.0, 3.0, "lost", charge)


@pytest.mark.parametrize(
    ("held", "charged"),
    [
        ([], False),
        ([("a", "x")], False),
        ([("a", "x"), ("a", "y")], False),
        ([("a", "x"), ("b", "")], False),
        ([("a", "x"), ("a", "x"), ("b", "y")], True),
        ([("a", "x"), ("b", ""), ("c", "y")], True),
    ],
)
def test_two_different_slots_are_needed(held: list[tuple[str, str]], charged: bool) -> None:
    attempts = [attempt(number, *one) for number, one in enumerate(held, start=1)]
    verdict = charge(attempts)
    assert (verdict is not None) == charged
    assert verdict is None or all(f"on {slot}: {what}" in verdict.reason for slot, what in held if what)


def test_a_run_goes_to_a_slot_that_has_not_lost_it_where_one_is_free() -> None:
    runs = [Run(f"r{number}", "c1", RunKind.NEW, number, 1, "", Queued(1.0)) for number in (1, 2)]
    lost_on = {"r1": frozenset({"a"})}
    assert _ids(pair_runs(runs, ("a", "b"), ("a", "b"), lost_on)) == [("r1", "b"), ("r2", "a")]
    assert _ids(pair_runs(runs, ("a",), ("a", "b"), lost_on)) == [("r2", "a")]  # r1 waits for b
    assert _ids(pair_runs(runs, ("a",), ("a",), lost_on)) == [("r1", "a")]
    assert pair_runs([], ("a",), ("a",), {}) == () == pair_runs(runs, (), ("a",), lost_on)


def _ids(pairs: Sequence[tuple[Run, str]]) -> list[tuple[str, str]]:
    return [(run.id, slot) for run, slot in pairs]


def test_what_is_held_against_an_attempt() -> None:
    assert held_against(None, "it was\x1b[2J killed", from_outside=False) == "lost: it was killed"
    assert held_against(None, "it was killed", from_outside=True) == ""
    infra = parse_result(json.dumps({"format": 1, "status": "infra: kill", "reason": "r", "launched": True}))
    assert held_against(infra, "infra: kill: r", from_outside=False) == "infra: kill: r"
    assert held_against(infra, "infra: kill: r", from_outside=True) == ""
