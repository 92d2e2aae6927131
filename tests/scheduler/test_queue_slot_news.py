"""What a person is heard of slots that take no run: once, with the reason, per node; and once when they do again.

Also, on the pool in memory: nodes that join are used within seconds, and one that leaves costs its own runs only.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.errors import PoolProblem
from scheduler.domain.run import Finished, Infra
from scheduler.domain.slot import IN_USE, RunOrder, Slot
from scheduler.queue.slot_news import JOINED, LONGEST_S, SETTLED_S, STARTING, STARTING_S, SlotNews
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import RUN_S, PlayedLab, as_the_source_says
from tests.scheduler.memory_pool import memory_slots

UNPREPARED = "contract 'short' is not prepared: nothing at /cache/short-8fb4; run: arsched prepare --contract short"


class Heard:
    """News of the slots of h1 and h3, at times of the test's choosing."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.news = SlotNews(self.lines.append)
        self.slots = [*memory_slots(2, node="h1"), *memory_slots(2, node="h3")]
        self.problems: dict[str, str] = {}
        self.now = 1000.0

    def after(self, seconds: float) -> list[str]:
        """The lines of so many seconds, looked at four times a second."""
        before = len(self.lines)
        for _ in range(int(4 * seconds)):
            self.news.follow(self.slots, self.problems, self.now)
            self.now += 0.25
        return self.lines[before:]

    def set(self, problem: str, *slot_ids: str) -> None:
        for slot_id in slot_ids or ("h3/cpu0", "h3/cpu1"):
            self.problems[slot_id] = problem


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_slots_that_are_well_are_not_mentioned(heard: Heard) -> None:
    assert heard.after(600) == []


def test_the_slots_of_one_node_are_named_together_at_once_and_never_again(heard: Heard) -> None:
    heard.set(UNPREPARED)
    assert heard.after(0.25) == [f"note: 2 slots of h3 take no run: {UNPREPARED}"]
    assert heard.after(3600) == []
    heard.set("")
    assert heard.after(60) == ["note: 2 slots of h3 take runs again"]
    assert heard.after(3600) == []


def test_one_slot_is_named_alone_and_some_of_a_node_by_name(heard: Heard) -> None:
    heard.set("its GPU is dirty: process 4711 uses it", "h3/cpu1")
    assert heard.after(1) == ["note: h3/cpu1 takes no run: its GPU is dirty: process 4711 uses it"]
    heard.slots += [replace(one, id=f"{one.id}0") for one in memory_slots(2, node="h1")]
    heard.after(10)
    heard.set("no", "h1/cpu0", "h1/cpu1")
    assert heard.after(10) == ["note: 2 slots of h1 (cpu0, cpu1) take no run: no"]


def test_different_reasons_on_one_node_are_different_lines_and_a_new_reason_is_said(heard: Heard) -> None:
    heard.set("the disk is full", "h3/cpu0")
    heard.set(UNPREPARED, "h3/cpu1")
    assert len(heard.after(1)) == 2
    heard.set(UNPREPARED, "h3/cpu0")
    assert heard.after(10) == [f"note: h3/cpu0 takes no run: {UNPREPARED}"]


def test_a_reason_that_differs_in_a_number_alone_is_the_same(heard: Heard) -> None:
    for pid in range(100, 160):
        heard.set(f"process {pid} holds its lock")
        heard.set(f"{IN_USE} (lab {'fast' if pid // 10 % 2 else 'slow'}, judge {pid})", "h1/cpu0")
        heard.after(1)
    assert [line.partition(" take")[0] for line in heard.lines] == ["note: h1/cpu0", "note: 2 slots of h3"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dirty: GPU 0 is in use by process 4711", "dirty: GPU 0 is in use by process 4711, 4712"),
        ("dirty: its lock /a/gpu-1 is held by a process of no known run: 4711 (python3)",
         "dirty: its lock /a/gpu-1 is held by a process of no known run: 4711 (python3), 815 (sleep)"),
    ],
)  # fmt: skip
def test_who_makes_a_slot_dirty_may_change_without_a_line(heard: Heard, one: str, other: str) -> None:
    heard.set(one, "h1/cpu0")
    assert heard.after(1) == [f"note: h1/cpu0 takes no run: {one}"]
    for problem in (other, one, other):
        heard.set(problem, "h1/cpu0")
        assert heard.after(30) == []


def test_a_slot_whose_reasons_take_turns_is_said_less_and_less(heard: Heard) -> None:
    lines = 0
    for turn in range(360):
        heard.set(("no room", "no driver")[turn % 2], "h1/cpu0")
        lines += len(heard.after(10))
    assert 2 <= lines <= 4


def test_what_is_over_in_a_moment_is_not_said(heard: Heard) -> None:
    heard.after(1)
    heard.set("its supervisor does not answer")
    assert heard.after(SETTLED_S - 1) == []
    heard.set("")
    assert heard.after(60) == []


def test_a_slot_that_comes_and_goes_is_said_less_and_less(heard: Heard) -> None:
    heard.after(1)
    for _ in range(400):
        heard.set("the node may be cut off")
        heard.after(7)
        heard.set("")
        heard.after(7)
    assert 2 <= len(heard.lines) <= 6
    heard.set("the node may be cut off")
    heard.after(2 * LONGEST_S)
    assert heard.lines[-1].endswith("no run: the node may be cut off")


def test_a_node_that_leaves_and_returns_is_said_twice(heard: Heard) -> None:
    heard.after(1)
    here = list(heard.slots)
    heard.slots = here[:2]
    assert heard.after(60) == ["note: 2 slots of h3 take no run: the node has left the cluster"]
    heard.slots = here
    assert heard.after(60) == ["note: 2 slots of h3 take runs again"]


def test_a_node_that_joins_is_said_once_when_it_is_known_what_it_can_do(heard: Heard) -> None:
    heard.after(1)
    heard.slots += memory_slots(2, node="h4")
    heard.set(STARTING, "h4/cpu0", "h4/cpu1")
    assert heard.after(STARTING_S / 2) == []
    heard.set("", "h4/cpu0", "h4/cpu1")
    assert heard.after(SETTLED_S + 1) == ["note: 2 slots of h4 take runs"]
    heard.slots += memory_slots(1, node="h5")
    heard.set(STARTING, "h5/cpu0")
    assert heard.after(STARTING_S + 1) == [f"note: h5/cpu0 takes no run: {STARTING}"]
    assert not any(JOINED in line for line in heard.lines)


def test_a_gpu_whose_number_is_not_known_yet_does_not_leave_when_it_is(heard: Heard) -> None:
    heard.after(1)
    (gpu,) = memory_slots(1, node="h4", device="cuda")
    heard.slots.append(replace(gpu, id="h4/gpu?0"))
    heard.set(STARTING, "h4/gpu?0")
    heard.after(STARTING_S + 1)
    heard.slots[-1] = gpu
    assert heard.after(60) == ["note: h4/gpu0 takes runs"]


def busy_on(played: PlayedLab, node: str) -> int:
    runs = played.space.ledger.runs.running("t")
    return sum(run.state.slot_id.startswith(f"{node}/") for run in runs)  # type: ignore[union-attr]


def test_a_queue_names_what_it_cannot_use_and_goes_on_with_the_rest(tmp_path: Path) -> None:
    """A node without cache, one with another cache, one of another kind, one that refuses each order."""
    without = [replace(slot, problem=UNPREPARED) for slot in memory_slots(2, node="h3")]
    other = [replace(slot, cache_digest="cache-2") for slot in memory_slots(2, node="h4")]
    slots = [*memory_slots(3, node="h1"), *without, *other, *memory_slots(1, node="h5", pool="fast")]
    played = PlayedLab(tmp_path, slots=slots)
    start = played.pool.start

    def refuse(slot_id: str, order: RunOrder) -> None:
        if slot_id == "h1/cpu0":
            raise PoolProblem("h1/cpu0 takes no run: the disk is full")
        start(slot_id, order)

    played.pool.start = refuse  # type: ignore[method-assign]
    for number in range(6):
        played.submit(f"idea-{number}", f"SCORE = {2 + number / 100}\n")
    played.run()
    heard = [line.partition(": ")[2] for line in played.screen.said("no run:")]
    assert sorted(heard) == [
        "2 slots of h3 take no run: " + UNPREPARED,
        "2 slots of h4 take no run: its cpu cache is cache-2, the lab's is cache-1; see `arsched doctor`",
        "h1/cpu0 takes no run: the disk is full",
        "h5/cpu0 takes no run: its scores would not compare: it is fast, this lab measures on memory",
    ]
    assert len(played.finished()) == 9


def test_a_slot_that_takes_runs_again_after_refusals_is_said(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    start, refused = played.pool.start, [0.0]

    def refuse(slot_id: str, order: RunOrder) -> None:
        if slot_id == "memory/cpu0" and len(refused) < 5:
            refused.append(played.clock())
            raise PoolProblem("memory/cpu0 takes no run: the disk is full")
        start(slot_id, order)

    played.pool.start = refuse  # type: ignore[method-assign]
    for number in range(12):
        played.submit(f"idea-{number}", f"SCORE = {2 + number / 100}\n")
    played.run()
    assert played.screen.said("memory/cpu0") and played.screen.said("takes") == [
        "note: memory/cpu0 takes no run: the disk is full",
        "note: memory/cpu0 takes runs again",
    ]


def test_a_node_that_joins_is_used_within_seconds(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, slots=memory_slots(1, node="h1"))
    joined: list[float] = []
    used: list[float] = []

    def join() -> None:
        if played.clock() > 1005 and not joined:
            joined.append(played.clock())
            for slot in memory_slots(2, node="h2"):
                played.pool.add_slot(slot)
        if joined and not used and busy_on(played, "h2"):
            used.append(played.clock())

    played.each_round = join
    for number in range(4):
        played.submit(f"idea-{number}", f"SCORE = {2 + number / 100}\n")
    played.run()
    assert used[0] - joined[0] <= 2.0
    assert played.screen.said("h2") and "note: 2 slots of h2 take runs" in played.screen.lines


def test_a_preempted_node_costs_its_own_runs_only(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path, slots=[*memory_slots(2, node="h1"), *memory_slots(2, node="spot")])
    times = iter((1010.0, 1110.0, 1230.0))
    next_at = [next(times)]
    lost: list[str] = []

    def preempt() -> None:
        spot = [slot for slot in played.pool.slots() if slot.node == "spot"]
        if spot and played.clock() > next_at[0] and busy_on(played, "spot") == 2:
            running = played.space.ledger.runs.running("t")
            lost.extend(run.id for run in running if run.state.slot_id.startswith("spot/"))  # type: ignore[union-attr]
            for slot in spot:
                played.pool.lose_slot(slot.id)
            next_at[0] = played.clock() + RUN_S
        elif not spot and played.clock() > next_at[0]:
            next_at[0] = next(times, 1e9)
            for slot in memory_slots(2, node="spot"):
                played.pool.add_slot(replace(slot, boot_id=f"boot-{len(lost)}"))

    played.each_round = preempt
    for number in range(30):
        played.submit(f"idea-{number}", f"SCORE = {2 + number / 100}\n")
    played.run()
    attempts = {run.id: run.attempts for run in played.space.ledger.runs.list("t")}
    assert len(lost) >= 4
    assert attempts == {run_id: 1 + lost.count(run_id) for run_id in attempts}
    assert len(played.finished()) == len(attempts)


def test_a_run_that_keeps_losing_its_slot_gets_two_more_attempts_and_ends_as_infra_with_the_reason(
    tmp_path: Path,
) -> None:
    """Whatever takes its slots is not the candidate's fault: never `invalid: no-result`."""

    def outcome(order: RunOrder) -> object:
        return as_the_source_says(order)

    slots = [slot for number in range(6) for slot in memory_slots(1, node=f"spot{number}")]
    played = PlayedLab(tmp_path, slots=slots, outcome=outcome)
    played.run()
    played.submit("unlucky", "HANG = True\n")

    def lose() -> None:
        for run in played.space.ledger.runs.running("t"):
            gone: Slot = next(slot for slot in played.pool.slots() if slot.id == run.state.slot_id)  # type: ignore[union-attr]
            played.pool.lose_slot(gone.id, f"node {gone.node} is gone")

    played.each_round = lose
    played.run()
    (run,) = played.space.ledger.runs.of_candidate("c0002")
    assert run.attempts == 3 and isinstance(run.state, Finished)
    verdict = run.state.result.verdict
    assert isinstance(verdict, Infra) and verdict.status == "infra: lost" and "is gone" in verdict.reason
    assert len({one.slot_id for one in played.space.ledger.runs.attempts(run.id)}) == 3
    (line,) = played.screen.said("given up")
    assert "after 3 attempts" in line and "is gone" in line
