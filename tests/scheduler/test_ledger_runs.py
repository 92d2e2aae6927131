"""A run's life in the ledger: leased once, finished once, given up after three losses, never by a stranger's result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.errors import LedgerProblem, UsageProblem
from scheduler.domain.run import (
    Cancelled,
    Failed,
    Finished,
    Infra,
    Queued,
    RunKind,
    Running,
    Scored,
    infra_result,
    next_seed,
)
from scheduler.ledger import Ledger
from tests.scheduler.ledger_kit import (
    SLOT,
    Clock,
    add_candidate,
    broken_invariants,
    finish,
    ok,
    open_ledger,
    result_of,
    start_lab,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.db", clock) as ledger:
        start_lab(ledger)
        add_candidate(ledger, "wide")
        yield ledger
    assert broken_invariants(tmp_path / "ledger.db") == []


@pytest.fixture
def run_id(ledger: Ledger) -> str:
    return ledger.runs.get("last", "t").id


def lease(ledger: Ledger, run_id: str, expires_at: float = 2000.0) -> int:
    attempt = ledger.runs.lease(run_id, SLOT, expires_at)
    assert attempt is not None
    return attempt


def test_a_leased_run_carries_its_slot_and_attempt(ledger: Ledger, clock: Clock, run_id: str) -> None:
    clock.now = 1234.0
    assert lease(ledger, run_id) == 1
    run = ledger.runs.get(run_id, "t")
    assert run.state == Running(1, SLOT.id, SLOT.boot_id, 1234.0)
    assert run.pool == SLOT.pool
    assert [r.id for r in ledger.runs.running("t")] == [run_id]
    assert ledger.runs.queued("t") == ()


def test_a_run_is_leased_once(ledger: Ledger, run_id: str) -> None:
    lease(ledger, run_id)
    assert ledger.runs.lease(run_id, SLOT, 2000.0) is None
    assert len(ledger.runs.attempts(run_id)) == 1


def test_a_result_finishes_the_run_and_keeps_the_judges_text(ledger: Ledger, clock: Clock, run_id: str) -> None:
    result = ok(1.85, training={"steps": 7, "tokens": 2**70}, wall_s=21.5)
    attempt = lease(ledger, run_id)
    clock.now = 1500.0
    assert ledger.runs.record(run_id, attempt, result)
    assert ledger.runs.get(run_id, "t").state == Finished(1, SLOT.id, 1000.0, 1500.0, result)


@pytest.mark.parametrize("status", ["crash", "oom", "no-eval", "timeout: train", "invalid: non-finite", "infra: gpu"])
def test_a_failure_comes_back_as_it_was_recorded(ledger: Ledger, run_id: str, status: str) -> None:
    result = result_of(status, reason="line one\nline two")
    finish(ledger, ledger.runs.get(run_id, "t"), result)
    state = ledger.runs.get(run_id, "t").state
    assert isinstance(state, Finished)
    assert state.result == result
    assert isinstance(state.result.verdict, Failed | Infra)


def test_a_suspect_score_keeps_its_doubt(ledger: Ledger, run_id: str) -> None:
    finish(ledger, ledger.runs.get(run_id, "t"), result_of("suspect: steps differ", val_bpb=1.5))
    state = ledger.runs.get(run_id, "t").state
    assert isinstance(state, Finished)
    assert state.result.verdict == Scored(1.5, None, "steps differ")


def test_half_a_surrogate_pair_and_a_nul_do_not_stop_the_lab(ledger: Ledger, run_id: str) -> None:
    result = result_of("crash", reason="half \ud800 and \0 and 'quote'; DROP TABLE run; --")
    finish(ledger, ledger.runs.get(run_id, "t"), result)
    state = ledger.runs.get(run_id, "t").state
    assert isinstance(state, Finished)
    assert isinstance(state.result.verdict, Failed)
    assert "DROP TABLE run" in state.result.verdict.reason


def test_the_result_of_an_expired_attempt_counts_until_another_attempt_took_over(
    ledger: Ledger, clock: Clock, run_id: str
) -> None:
    """A driver that was away overnight harvests what its node finished: no other slot holds the lease."""
    attempt = lease(ledger, run_id, expires_at=1010.0)
    clock.now = 9999.0
    assert [run.id for run in ledger.runs.expired("t", clock.now)] == [run_id]
    assert ledger.runs.record(run_id, attempt, ok(1.8))


def test_the_result_of_an_attempt_that_lost_its_lease_is_refused(ledger: Ledger, run_id: str) -> None:
    zombie = lease(ledger, run_id)
    ledger.runs.requeue(run_id, zombie, "its node went silent")
    second = lease(ledger, run_id)
    events = ledger.events.list("t")
    assert not ledger.runs.record(run_id, zombie, ok(0.1))
    assert isinstance(ledger.runs.get(run_id, "t").state, Running)
    *before, refusal = ledger.events.list("t")
    assert tuple(before) == events
    assert (refusal.subject, refusal.to_state) == (f"{run_id}.{zombie}", "refused")
    assert ledger.runs.record(run_id, second, ok(1.8))
    assert not ledger.runs.record(run_id, zombie, ok(0.1))
    assert ledger.board("t").of("c0002").scores == (1.8,)


def test_the_same_result_twice_counts_once(ledger: Ledger, run_id: str) -> None:
    attempt = lease(ledger, run_id)
    assert ledger.runs.record(run_id, attempt, ok(1.8))
    assert not ledger.runs.record(run_id, attempt, ok(1.8))
    assert ledger.board("t").of("c0002").scores == (1.8,)


@pytest.mark.parametrize("attempt", [0, 2, -1, 99])
def test_an_attempt_that_never_was_holds_nothing(ledger: Ledger, run_id: str, attempt: int) -> None:
    lease(ledger, run_id)
    assert not ledger.runs.record(run_id, attempt, ok(0.1))
    assert not ledger.runs.renew(run_id, attempt, 5000.0)
    assert isinstance(ledger.runs.requeue(run_id, attempt, "no"), Running)


def test_a_result_without_a_lease_is_refused(ledger: Ledger, run_id: str) -> None:
    assert not ledger.runs.record(run_id, 1, ok(0.1))
    assert isinstance(ledger.runs.get(run_id, "t").state, Queued)


def test_renewing_pushes_the_expiry(ledger: Ledger, run_id: str) -> None:
    attempt = lease(ledger, run_id, expires_at=1010.0)
    assert ledger.runs.renew(run_id, attempt, 3000.0)
    assert ledger.runs.expired("t", 2000.0) == ()
    assert ledger.runs.attempts(run_id)[0].expires_at == 3000.0


def test_a_lost_run_goes_to_the_front_and_says_why(ledger: Ledger, clock: Clock) -> None:
    for name in ("second", "third"):
        add_candidate(ledger, name)
    last = ledger.runs.queued("t")[-1].id
    clock.now = 1700.0
    state = ledger.runs.requeue(last, lease(ledger, last), "node-a restarted")
    assert state == Queued(1700.0, "node-a restarted")
    assert ledger.runs.queued("t")[0].id == last


def test_the_third_lost_attempt_finishes_the_run(ledger: Ledger, run_id: str) -> None:
    assert isinstance(ledger.runs.requeue(run_id, lease(ledger, run_id), "lost once"), Queued)
    assert isinstance(ledger.runs.requeue(run_id, lease(ledger, run_id), "lost twice"), Queued)
    state = ledger.runs.requeue(run_id, lease(ledger, run_id), "lost thrice")
    assert isinstance(state, Finished)
    assert state.result.verdict == Infra("infra: lost", "lost thrice")
    assert state.attempt == 3
    assert [a.outcome for a in ledger.runs.attempts(run_id)] == ["lost"] * 3
    assert ledger.runs.lease(run_id, SLOT, 2000.0) is None


def test_the_third_infra_result_is_kept_whole(ledger: Ledger, run_id: str) -> None:
    result = infra_result("attention", "fell back to SDPA")
    states = [ledger.runs.requeue(run_id, lease(ledger, run_id), "infra", result=result) for _ in range(3)]
    assert isinstance(states[-1], Finished)
    assert states[-1].result == result


def test_attempts_stopped_on_purpose_do_not_count(ledger: Ledger, run_id: str) -> None:
    for _ in range(7):
        assert isinstance(ledger.runs.requeue(run_id, lease(ledger, run_id), "interrupted", counts=False), Queued)
    for reason in ("lost once", "lost twice"):
        assert isinstance(ledger.runs.requeue(run_id, lease(ledger, run_id), reason), Queued)
    assert isinstance(ledger.runs.requeue(run_id, lease(ledger, run_id), "lost thrice"), Finished)


def test_a_cancelled_run_takes_no_result(ledger: Ledger, clock: Clock, run_id: str) -> None:
    attempt = lease(ledger, run_id)
    clock.now = 1100.0
    assert ledger.runs.cancel(run_id, "changed my mind")
    assert ledger.runs.get(run_id, "t").state == Cancelled(1100.0, "changed my mind")
    assert not ledger.runs.record(run_id, attempt, ok(0.1))
    assert not ledger.runs.cancel(run_id, "again")


def test_a_finished_run_cannot_be_cancelled(ledger: Ledger, run_id: str) -> None:
    finish(ledger, ledger.runs.get(run_id, "t"), ok(1.8))
    assert not ledger.runs.cancel(run_id, "too late")


def seeds_of(ledger: Ledger, ref: str) -> list[int]:
    return [run.seed for run in ledger.runs.of_candidate(ref)]


def test_the_nth_run_of_every_candidate_has_the_nth_seed(ledger: Ledger) -> None:
    add_candidate(ledger, "second", runs=4)
    ledger.runs.add("c0002", RunKind.REPEAT, "again")
    ledger.runs.add("c0001", RunKind.BASELINE, "again")
    assert [seeds_of(ledger, ref) for ref in ("c0001", "c0002", "c0003")] == [[1, 2, 3, 4], [1, 2], [1, 2, 3, 4]]
    start_lab(ledger, "other")
    assert [run.seed for run in ledger.runs.list("other")] == [1, 2, 3]


def test_a_baseline_measured_again_has_the_seeds_that_candidates_have(ledger: Ledger) -> None:
    """One with a fourth seed would be held against no run with that seed; and none runs twice with one at a time."""
    for _ in range(3):
        ledger.runs.add("c0001", RunKind.BASELINE, "again", within=3)
    assert seeds_of(ledger, "c0001") == [1, 2, 3, 1, 2, 3]
    assert ledger.runs.add("c0001", RunKind.BASELINE, "while all of them wait", within=3).seed == 4
    for run in ledger.runs.list("t"):
        ledger.runs.cancel(run.id, "changed my mind")
    assert ledger.runs.add("c0001", RunKind.BASELINE, "again", within=3).seed == 1


@pytest.mark.parametrize("ending", ["cancelled", "infra: disk-full"])
def test_a_seed_had_again_stays_lawful_when_an_earlier_run_comes_to_nothing(ledger: Ledger, ending: str) -> None:
    first, _, third = ledger.runs.of_candidate(add_candidate(ledger, "many", runs=3).id)
    finish(ledger, first, ok(1.8))
    assert ledger.runs.add("c0003", RunKind.BASELINE, "again", within=3).seed == 1
    if ending == "cancelled":
        ledger.runs.cancel(third.id, "changed my mind")
    else:
        finish(ledger, third, result_of(ending))
    assert ledger.runs.add("c0003", RunKind.BASELINE, "again", within=3).seed == 3


@given(
    had=st.lists(st.integers(1, 6), max_size=12),
    others=st.sets(st.integers(1, 6)),
    pending=st.sets(st.integers(1, 6)),
    within=st.integers(0, 4),
)
def test_the_next_seed_is_new_or_one_that_was_had_least_often(
    had: list[int], others: set[int], pending: set[int], within: int
) -> None:
    pending &= set(had)
    seed = next_seed(had, others, pending, within)
    assert seed not in others and seed not in pending
    free = [one for one in range(1, within + 1) if one not in others]
    if unused := [one for one in free if one not in had]:
        assert seed == unused[0]
    elif left := [one for one in free if one not in pending]:
        assert seed in left and had.count(seed) == min(map(had.count, left))
    else:
        assert seed not in had


def test_no_other_run_has_a_seed_of_a_claim(ledger: Ledger) -> None:
    """Among them one chosen by hand: it is passed over, and moves no other."""
    ledger.runs.add("c0001", RunKind.AUDIT, "by hand", seed=5)
    ledger.runs.add("c0001", RunKind.AUDIT, "by hand", seed=999)
    claimed = ledger.runs.fresh_seed("t")
    for ref in ("c0001", "c0002"):
        assert ledger.runs.add(ref, RunKind.CLAIM, "claim", claimed).seed == 4
    assert ledger.runs.fresh_seed("t") == 6
    for _ in range(4):
        ledger.runs.add("c0002", RunKind.REPEAT, "again")
    assert seeds_of(ledger, "c0002") == [1, 4, 2, 3, 5, 6]
    assert ledger.runs.add("c0001", RunKind.BASELINE, "again").seed == 6
    assert seeds_of(ledger, add_candidate(ledger, "later", runs=5).id) == [1, 2, 3, 5, 6]
    with pytest.raises(UsageProblem, match="r0004 has had seed 1"):
        ledger.runs.add("c0002", RunKind.CLAIM, "again", 1)


@pytest.mark.parametrize("ending", ["cancelled in the queue", "cancelled on a slot", "lost", "infra"])
def test_a_run_that_ended_without_a_word_on_its_program_leaves_its_seed(
    ledger: Ledger, run_id: str, ending: str
) -> None:
    attempt = lease(ledger, run_id) if ending != "cancelled in the queue" else 0
    if ending.startswith("cancelled"):
        ledger.runs.cancel(run_id, "changed my mind")
    elif ending == "infra":
        ledger.runs.record(run_id, attempt, result_of("infra: disk-full"))
    else:
        for number in (1, 2, 3):
            ledger.runs.requeue(run_id, attempt or number, "node gone")
            assert number == 3 or ledger.runs.add("c0002", RunKind.REPEAT, "while it waits").seed == number + 1
            attempt = lease(ledger, run_id) if number < 3 else 0
    assert ledger.runs.add("c0002", RunKind.REPEAT, "in its place").seed == 1


@pytest.mark.parametrize("status", ["crash", "invalid: non-causal", "timeout: train", "ok"])
def test_a_run_that_said_something_of_its_program_keeps_its_seed(ledger: Ledger, run_id: str, status: str) -> None:
    finish(ledger, ledger.runs.get(run_id, "t"), ok(1.8) if status == "ok" else result_of(status))
    assert ledger.runs.add("c0002", RunKind.REPEAT, "again").seed == 2


def test_an_unknown_run_is_named_with_the_nearest(ledger: Ledger) -> None:
    with pytest.raises(UsageProblem, match="no run 'r0044'") as problem:
        ledger.runs.get("r0044", "t")
    assert "r0004" in problem.value.hint
    with pytest.raises(LedgerProblem, match="r0044"):
        ledger.runs.cancel("r0044", "nothing there")
    with pytest.raises(LedgerProblem, match="c0099"):
        ledger.runs.add("c0099", RunKind.NEW, "none")


def test_runs_are_found_by_short_ids_and_by_last(ledger: Ledger) -> None:
    assert ledger.runs.get("r4", "t") == ledger.runs.get("last", "t") == ledger.runs.of_candidate("c0002")[0]
