"""The driver's hands on its slots, against a cluster in memory: nodes come and go, actors die or fall silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Busy, Done, Lost, Progress, Slot
from scheduler.node.actor import NodeSettings, Seat
from scheduler.ray.cluster import ActorGone, NoAnswer, RayCluster, RayNode
from scheduler.ray.slot_book import SlotBook
from scheduler.ray.slot_hands import REVIVE_EVERY_S, SILENT_AFTER_S, SlotHands
from tests.scheduler.fake_judge import CONTRACT_JSON
from tests.scheduler.memory_pool import VirtualClock

ONE = RayNode("1" * 16, "node-a", 2, 2)
TWO = RayNode("2" * 16, "node-b", 2, 2)


@dataclass(eq=False)
class Question:
    seat: Seat
    method: str


@dataclass
class ClusterInMemory:
    """Answers what `RayCluster` would: `trouble` says per slot what a question ends in."""

    there: tuple[RayNode, ...] = (ONE,)
    trouble: dict[str, Exception | None] = field(default_factory=dict)
    placed: list[Seat] = field(default_factory=list)
    killed: list[Seat] = field(default_factory=list)
    older: int = 0

    def nodes(self) -> tuple[RayNode, ...]:
        return self.there

    def place(self, seat: Seat, node_id: str, settings: NodeSettings) -> Seat:
        self.placed.append(seat)
        return seat

    def ask(self, actor: Seat, method: str, *arguments: object) -> Question:
        return Question(actor, method)

    def answered(self, questions: Sequence[Question], timeout_s: float) -> list[Question]:
        return [question for question in questions if self.trouble.get(slot_id(question.seat), 0) is not None]

    def answer(self, question: Question, timeout_s: float) -> Slot:
        trouble = self.trouble.get(slot_id(question.seat))
        if trouble is not None:
            raise trouble
        seat = question.seat
        return Slot(slot_id(seat), seat.node, "boot-1", seat.device, "H100", "pool", "cache")

    def kill(self, actor: Seat) -> None:
        self.killed.append(actor)

    def retire_others(self, code: str) -> int:
        return self.older


def slot_id(seat: Seat) -> str:
    return f"{seat.node}/{'gpu' if seat.device == 'cuda' else 'cpu'}{seat.index}"


@dataclass
class Scene:
    cluster: ClusterInMemory
    clock: VirtualClock
    hands: SlotHands
    gone: list[tuple[str, str]]

    def look(self, after_s: float = 3.0) -> dict[str, str]:
        """Problems by slot after some time has passed."""
        self.clock.advance(after_s)
        self.hands.look_around()
        return {hand.slot.id: hand.slot.problem for hand in self.hands.all()}


def make_scene(device: str = "cpu", most: int | None = None) -> Scene:
    cluster, clock = ClusterInMemory(), VirtualClock(100.0)
    gone: list[tuple[str, str]] = []
    hands = SlotHands(
        cast(RayCluster, cluster), device, CONTRACT_JSON, "lab-1", NodeSettings(), most=most,
        on_gone=lambda slot, reason: gone.append((slot, reason)), clock=clock,
    )  # fmt: skip
    return Scene(cluster, clock, hands, gone)


@pytest.fixture
def scene() -> Scene:
    return make_scene()


def test_every_core_of_every_node_is_a_slot(scene: Scene) -> None:
    scene.cluster.there = (ONE, TWO)
    assert scene.look() == dict.fromkeys(("node-a/cpu0", "node-a/cpu1", "node-b/cpu0", "node-b/cpu1"), "")


def test_at_most_so_many_slots_are_taken() -> None:
    scene = make_scene(most=3)
    scene.cluster.there = (ONE, TWO)
    assert list(scene.look()) == ["node-a/cpu0", "node-a/cpu1", "node-b/cpu0"]


def test_gpu_contracts_count_gpus_and_wait_for_ray_to_say_which() -> None:
    scene = make_scene("cuda")
    scene.cluster.trouble = {"node-a/gpu0": None}
    assert scene.look() == {"node-a/gpu?0": "its supervisor is starting", "node-a/gpu1": ""}


def test_a_node_that_joins_is_used(scene: Scene) -> None:
    scene.look()
    scene.cluster.there = (ONE, TWO)
    assert len(scene.look()) == 4


def test_a_node_that_dies_takes_its_slots_along_and_says_so(scene: Scene) -> None:
    scene.cluster.there = (ONE, TWO)
    scene.look()
    scene.cluster.there = (TWO,)
    assert list(scene.look()) == ["node-b/cpu0", "node-b/cpu1"]
    assert scene.gone == [("node-a/cpu0", "node node-a is gone"), ("node-a/cpu1", "node node-a is gone")]
    assert [slot_id(seat) for seat in scene.cluster.killed] == ["node-a/cpu0", "node-a/cpu1"]


def test_a_node_that_comes_back_has_its_old_name_and_new_actors(scene: Scene) -> None:
    scene.look()
    scene.cluster.there = ()
    assert scene.look() == {}
    scene.cluster.there = (RayNode("3" * 16, "node-a", 2, 2),)
    assert list(scene.look()) == ["node-a/cpu0", "node-a/cpu1"]
    assert len(scene.cluster.placed) == 4


def test_two_nodes_with_one_host_name_stay_apart(scene: Scene) -> None:
    scene.cluster.there = (ONE, RayNode("9" * 16, "node-a", 1, 0))
    assert list(scene.look()) == ["node-a/cpu0", "node-a/cpu1", "node-a-999999/cpu0"]


def test_a_dead_actor_is_made_anew_and_no_run_is_called_lost(scene: Scene) -> None:
    scene.look()
    scene.cluster.trouble = {"node-a/cpu0": ActorGone("the worker died")}
    assert "the worker died" in scene.look(40.0)["node-a/cpu0"]
    scene.cluster.trouble = {}
    assert scene.look() == {"node-a/cpu0": "", "node-a/cpu1": ""}
    assert len(scene.cluster.placed) == 3
    assert scene.gone == []


def test_an_actor_that_keeps_dying_is_not_made_anew_all_the_time(scene: Scene) -> None:
    scene.cluster.trouble = {"node-a/cpu0": ActorGone("no module named scheduler")}
    for _ in range(10):
        assert "no module named scheduler" in scene.look()["node-a/cpu0"]
    assert len(scene.cluster.placed) <= 2 + 30 / REVIVE_EVERY_S


def test_a_restarting_actor_breaks_its_slot_until_it_answers(scene: Scene) -> None:
    scene.look()
    scene.cluster.trouble = {"node-a/cpu0": NoAnswer("restarting")}
    assert "does not answer" in scene.look(40.0)["node-a/cpu0"]
    scene.cluster.trouble = {}
    assert scene.look(6.0) == {"node-a/cpu0": "", "node-a/cpu1": ""}


def test_a_slot_whose_poll_stays_open_is_called_silent(scene: Scene) -> None:
    scene.look()
    [hand, _] = scene.hands.all()
    scene.cluster.trouble = {"node-a/cpu0": None}
    hand.poll, hand.poll_since = Question(hand.seat, "poll"), scene.clock()
    assert scene.look(SILENT_AFTER_S - 1.0)["node-a/cpu0"] == ""
    assert "does not answer" in scene.look(2.0)["node-a/cpu0"]


def test_a_probe_that_fails_on_the_node_is_the_slots_problem(scene: Scene) -> None:
    scene.cluster.trouble = {"node-a/cpu1": PoolProblem("the node's disk is gone")}
    assert scene.look() == {"node-a/cpu0": "", "node-a/cpu1": "the node's disk is gone"}


def test_an_unknown_slot_is_a_problem_naming_those_there_are(scene: Scene) -> None:
    scene.look()
    with pytest.raises(PoolProblem, match="no slot node-z/cpu0") as caught:
        scene.hands.of_slot("node-z/cpu0")
    assert "node-a/cpu0, node-a/cpu1" in caught.value.hint


BUSY = Busy("s", "r0001", 1, Progress("train", 3.0, 20.0))
DONE = Done("s", "r0001", 1, "{}", "")


def test_an_ordered_attempt_counts_as_busy_until_the_slot_speaks_of_it() -> None:
    book = SlotBook()
    book.begun("s", "r0001", 1)
    assert book.reports() == (Busy("s", "r0001", 1, Progress()),)
    book.heard("s", (BUSY,))
    assert book.reports() == (BUSY,)
    book.begun("s", "r0001", 1)
    assert book.reports() == (BUSY,)


def test_what_a_slot_does_not_mention_any_more_is_lost_until_acknowledged() -> None:
    book = SlotBook()
    book.begun("s", "r0001", 1)
    book.heard("s", ())
    [lost] = book.reports()
    assert isinstance(lost, Lost) and "knows nothing" in lost.reason
    book.heard("s", ())
    assert book.reports() == (lost,)
    book.forget("s", "r0001", 1)
    assert book.reports() == ()


def test_a_lost_node_loses_what_was_busy_and_keeps_what_was_done() -> None:
    book = SlotBook()
    book.heard("s", (DONE, Busy("s", "r0002", 1, Progress())))
    book.gone("s", "node s is gone")
    assert book.reports() == (DONE, Lost("s", "r0002", 1, "node s is gone"))


def test_an_attempt_thought_lost_may_still_turn_out_done() -> None:
    book = SlotBook()
    book.heard("s", (BUSY,))
    book.gone("s", "node s is gone")
    book.heard("s", (DONE,))
    assert book.reports() == (DONE,)


def test_forgetting_the_unknown_is_nothing() -> None:
    book: Any = SlotBook()
    book.forget("s", "r0001", 1)
    assert book.reports() == ()
