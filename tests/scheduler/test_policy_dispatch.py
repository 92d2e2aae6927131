"""Who goes next: priorities, the share of repeats, stability, and sentences that say the truth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.run import Run, RunKind
from scheduler.policy.dispatch import explain_waiting, order_runs, repeats_allowed
from tests.scheduler.policy_kit import baseline, board, run

BASE, NEW, REPEAT = RunKind.BASELINE, RunKind.NEW, RunKind.REPEAT
FIRST = board(baseline(1.0))
LATER = board(baseline(1.0), first=False)
RUNS = st.lists(st.sampled_from(list(RunKind)), max_size=12).map(lambda kinds: [run(i, k) for i, k in enumerate(kinds)])


def kinds(runs: tuple[Run, ...]) -> list[RunKind]:
    return [r.kind for r in runs]


def test_the_first_baseline_goes_before_everything() -> None:
    queued = [run(1, NEW), run(2, REPEAT), run(3, BASE)]
    assert kinds(order_runs(queued, [], 8, FIRST)) == [BASE, REPEAT, NEW]


def test_a_later_baseline_tops_up_after_repeats_and_before_ideas() -> None:
    queued = [run(1, NEW), run(2, BASE), run(3, REPEAT)]
    assert kinds(order_runs(queued, [], 8, LATER)) == [REPEAT, BASE, NEW]


@given(RUNS, RUNS, st.integers(1, 16))
def test_repeats_never_take_more_than_their_share(queued: list[Run], running: list[Run], slots: int) -> None:
    allowed = max(1, slots // 2)
    already = sum(r.kind is REPEAT for r in running)
    chosen = sum(r.kind is REPEAT for r in order_runs(queued, running, slots, LATER))
    assert chosen <= max(0, allowed - already)
    assert repeats_allowed(slots, LATER) == allowed


@given(RUNS, st.integers(1, 16))
def test_nothing_but_repeats_is_ever_left_out_and_equals_keep_their_order(queued: list[Run], slots: int) -> None:
    chosen = order_runs(queued, [], slots, LATER)
    assert {r.id for r in queued if r.kind is not REPEAT} <= {r.id for r in chosen}
    for kind in RunKind:
        same = [r.id for r in chosen if r.kind is kind]
        assert same == [r.id for r in queued if r.kind is kind][: len(same)]


def test_a_waiting_run_is_told_why() -> None:
    queued = [run(1, NEW), run(2, NEW)]
    busy = [run(8, NEW), run(9, NEW)]
    assert "doctor" in explain_waiting(queued[0], queued, [], 0)
    assert "arsched submit" in explain_waiting(queued[0], queued, [], 2)
    assert "all 2 slots are busy" in explain_waiting(queued[0], queued, busy, 2)
    assert "1 run go first" not in explain_waiting(queued[1], queued, busy, 2)
    assert "1 run goes first" in explain_waiting(queued[1], queued, busy, 2)
    repeats = [run(1, REPEAT)]
    assert "half" in explain_waiting(repeats[0], repeats, [run(9, REPEAT)], 2)
