"""The pool's slots, against a cluster in memory: nodes come and go, actors die or stop answering; and its reports."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Busy, Done, Lost, Progress, Report, Slot
from scheduler.node.supervisor import NodeSettings, SlotAssignment
from scheduler.ray.cluster import ActorGone, NoAnswer, RayCluster, RayNode
from scheduler.ray.pending import PendingReports
from scheduler.ray.pool import HEAD_AWAY_S, REVIVE_EVERY_S, SILENT_AFTER_S, RayPool
from tests.scheduler.fake_judge import CONTRACT_JSON
from tests.scheduler.memory_pool import VirtualClock
from tests.scheduler.supervisor_pool import fake_order

ONE = RayNode("1" * 16, "node-a", 2, 2)
TWO = RayNode("2" * 16, "node-b", 2, 2)
GPU_CONTRACT_JSON = CONTRACT_JSON.replace('"cpu"', '"cuda"', 1)


@dataclass(eq=False)
class Call:
    assignment: SlotAssignment
    method: str


@dataclass
class ClusterInMemory:
    """Answers as `RayCluster` would: `trouble` holds per slot what a call ends in, None for no answer at all."""

    there: tuple[RayNode, ...] = (ONE,)
    trouble: dict[str, Exception | None] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)  # slot id -> the id it answers with
    reports: dict[str, tuple[Report, ...]] = field(default_factory=dict)
    placed: list[SlotAssignment] = field(default_factory=list)
    killed: list[SlotAssignment] = field(default_factory=list)
    embedded: bool = False
    room: bool = False
    away: bool = False
    address: str = "head:6379"
    older: int = 0

    def nodes(self) -> tuple[RayNode, ...]:
        assert not self.away, "Ray hangs"
        return self.there

    def place(self, assignment: SlotAssignment, node_id: str, settings: NodeSettings) -> SlotAssignment:
        self.placed.append(assignment)
        return assignment

    def ask(self, actor: SlotAssignment, method: str, *arguments: object) -> Call:
        return Call(actor, method)

    def answered(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        return [call for call in calls if self.trouble.get(slot_id(call.assignment), 0) is not None]

    def answer(self, call: Call, timeout_s: float) -> object:
        of = call.assignment
        if (trouble := self.trouble.get(slot_id(of))) is not None:
            raise trouble
        if call.method == "probe":
            name = self.renamed.get(slot_id(of), slot_id(of))
            return Slot(name, of.node, "boot-1", of.device, "H100", "pool", "cache")
        return self.reports.get(slot_id(of), ()) if call.method == "poll" else True

    def kill(self, actor: SlotAssignment) -> None:
        self.killed.append(actor)

    def is_there(self) -> bool:
        return not self.away

    def retire_others(self, code: str) -> int:
        assert not self.away, "Ray hangs"
        return self.older

    def free_resources(self) -> str:
        return "0 of 2 CPU free"

    def offers(self, device: str) -> bool:
        return self.room


def slot_id(of: SlotAssignment) -> str:
    return f"{of.node}/{'gpu' if of.device == 'cuda' else 'cpu'}{of.index}"


class Scene:
    def __init__(self, contract_json: str = CONTRACT_JSON, most: int | None = None) -> None:
        self.cluster, self.clock = ClusterInMemory(), VirtualClock(100.0)
        cluster = cast(RayCluster, self.cluster)
        self.pool = RayPool(cluster, contract_json, "lab-1", NodeSettings(), most, clock=self.clock)

    def look(self, after_s: float = 3.0) -> dict[str, str]:
        """Problems by slot after some time has passed."""
        self.clock.advance(after_s)
        return {slot.id: slot.problem for slot in self.pool.slots()}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_every_core_of_every_node_is_a_slot(scene: Scene) -> None:
    scene.cluster.there = (ONE, TWO)
    assert scene.look() == dict.fromkeys(("node-a/cpu0", "node-a/cpu1", "node-b/cpu0", "node-b/cpu1"), "")


def test_at_most_so_many_slots_are_taken() -> None:
    scene = Scene(most=3)
    scene.cluster.there = (ONE, TWO)
    assert list(scene.look()) == ["node-a/cpu0", "node-a/cpu1", "node-b/cpu0"]


def test_gpu_contracts_count_gpus_and_wait_for_ray_to_choose() -> None:
    scene = Scene(GPU_CONTRACT_JSON)
    scene.cluster.trouble = {"node-a/gpu0": None}
    assert scene.look() == {"node-a/gpu?0": "its supervisor is starting", "node-a/gpu1": ""}


@pytest.mark.parametrize(("contract", "bare"), [(CONTRACT_JSON, ()), (GPU_CONTRACT_JSON, ("node-c",))])
def test_a_node_without_a_gpu_has_no_slot_and_is_known(contract: str, bare: tuple[str, ...]) -> None:
    scene = Scene(contract)
    scene.cluster.there = (ONE, RayNode("3" * 16, "node-c", 2, 0))
    assert any("node-c" in slot for slot in scene.look()) != bool(bare)
    assert scene.pool.bare_nodes() == bare


def test_a_node_that_joins_is_used(scene: Scene) -> None:
    scene.look()
    scene.cluster.there = (ONE, TWO)
    assert len(scene.look()) == 4


def test_a_node_that_dies_takes_its_slots_and_runs_along(scene: Scene) -> None:
    scene.cluster.there = (ONE, TWO)
    scene.look()
    scene.pool.start("node-a/cpu1", fake_order("r0001", "hang"))
    scene.cluster.there = (TWO,)
    assert list(scene.look()) == ["node-b/cpu0", "node-b/cpu1"]
    assert scene.pool.poll() == (Lost("node-a/cpu1", "r0001", 1, "node node-a is gone", from_outside=True),)
    assert [slot_id(actor) for actor in scene.cluster.killed] == ["node-a/cpu0", "node-a/cpu1"]


def test_a_node_that_comes_back_has_its_old_name_and_new_actors(scene: Scene) -> None:
    scene.look()
    scene.cluster.there = ()
    assert scene.look() == {}
    scene.cluster.there = (RayNode("3" * 16, "node-a", 2, 2),)
    assert list(scene.look()) == ["node-a/cpu0", "node-a/cpu1"]
    assert len(scene.cluster.placed) == 4


def test_two_nodes_with_one_host_name_are_kept_apart(scene: Scene) -> None:
    scene.cluster.there = (ONE, RayNode("9" * 16, "node-a", 1, 0))
    assert set(scene.look()) == {"node-a/cpu0", "node-a/cpu1", "node-a-999999/cpu0"}


def test_a_dead_actor_is_made_anew_and_no_run_is_called_lost(scene: Scene) -> None:
    scene.look()
    busy = Busy("node-a/cpu0", "r0001", 1, Progress())
    scene.cluster.reports = {"node-a/cpu0": (busy,)}
    assert scene.pool.poll() == (busy,)
    scene.cluster.trouble = {"node-a/cpu0": ActorGone("the worker died")}
    assert "the worker died" in scene.look(40.0)["node-a/cpu0"]
    scene.cluster.trouble = {}
    assert scene.look() == {"node-a/cpu0": "", "node-a/cpu1": ""}
    assert len(scene.cluster.placed) == 3
    assert scene.pool.poll() == (busy,)


def test_a_run_on_a_gpu_that_ray_gave_to_another_actor_is_lost() -> None:
    scene = Scene(GPU_CONTRACT_JSON)
    scene.look()
    scene.pool.start("node-a/gpu0", fake_order("r0001", "hang"))
    scene.cluster.renamed = {"node-a/gpu0": "node-a/gpu7"}
    assert "node-a/gpu7" in scene.look(40.0)
    assert scene.pool.poll() == (Lost("node-a/gpu0", "r0001", 1, "its supervisor ended", from_outside=True),)


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


def test_a_slot_whose_poll_has_no_answer_is_broken(scene: Scene) -> None:
    scene.look()
    scene.cluster.trouble = {"node-a/cpu0": None}
    scene.pool.poll()
    assert scene.look(SILENT_AFTER_S - 1.0)["node-a/cpu0"] == ""
    assert "does not answer" in scene.look(2.0)["node-a/cpu0"]


def test_an_order_without_an_answer_is_busy_and_a_refused_one_is_nothing(scene: Scene) -> None:
    scene.look()
    scene.cluster.trouble = {"node-a/cpu0": NoAnswer("slow"), "node-a/cpu1": PoolProblem("its disk is full")}
    scene.pool.start("node-a/cpu0", fake_order("r0001", "hang"))
    with pytest.raises(PoolProblem, match="its disk is full"):
        scene.pool.start("node-a/cpu1", fake_order("r0002", "hang"))
    assert [(type(report), report.run_id) for report in scene.pool.poll()] == [(Busy, "r0001")]
    assert scene.look(0.0)["node-a/cpu1"] == "its disk is full"


def test_a_probe_that_fails_on_the_node_is_the_slots_problem(scene: Scene) -> None:
    scene.cluster.trouble = {"node-a/cpu1": PoolProblem("the node's disk is gone")}
    assert scene.look() == {"node-a/cpu0": "", "node-a/cpu1": "the node's disk is gone"}


def test_an_unknown_slot_is_a_problem_naming_those_there_are(scene: Scene) -> None:
    scene.look()
    with pytest.raises(PoolProblem, match="no slot node-z/cpu0") as caught:
        scene.pool.start("node-z/cpu0", fake_order("r0001", "hang"))
    assert "node-a/cpu0, node-a/cpu1" in caught.value.hint


def test_only_on_a_cluster_do_runs_outlive_the_driver(scene: Scene) -> None:
    assert scene.pool.detached
    scene.cluster.embedded = True
    assert not scene.pool.detached


BUSY = Busy("s", "r0001", 1, Progress("train", 3.0, 20.0))
DONE = Done("s", "r0001", 1, "{}", "")


@pytest.mark.parametrize(
    ("embedded", "room", "words"),
    [
        (True, False, "Ray's workers did not start"),
        (False, True, "though Ray has room"),
        (False, False, "gave none of 2 slots a place"),
    ],
)
def test_slots_that_never_answer_have_the_reason_of_their_own_kind(
    scene: Scene, embedded: bool, room: bool, words: str
) -> None:
    scene.cluster.embedded, scene.cluster.room = embedded, room
    scene.cluster.trouble = {"node-a/cpu0": None, "node-a/cpu1": None}
    scene.look()
    with pytest.raises(PoolProblem, match=words) as caught:
        scene.pool._await_slots(lambda line: None, -1.0)
    assert ("ray status" in caught.value.hint) is not embedded


def test_a_head_that_is_away_is_asked_nothing_and_may_come_back(scene: Scene) -> None:
    before = scene.look()
    scene.cluster.away = True
    assert scene.look(15.0) == before and scene.pool.poll() == ()
    scene.cluster.away = False
    assert scene.look(15.0) == before
    scene.cluster.away = True
    assert scene.look(15.0) == before


def test_a_head_that_stays_away_is_a_problem_before_ray_ends_the_process(scene: Scene) -> None:
    scene.look()
    scene.cluster.away = True
    scene.look(3.0)
    with pytest.raises(PoolProblem, match="head:6379 is gone") as caught:
        scene.look(HEAD_AWAY_S)
    assert "the same command" in caught.value.hint and HEAD_AWAY_S < 40


def test_whether_a_head_is_there_is_asked_of_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert RayCluster(None, address=address).is_there()
    assert not RayCluster(None, address=address).is_there()
    assert RayCluster(None).is_there() and RayCluster(None, address="auto").is_there()


def test_an_ordered_attempt_counts_as_busy_until_the_slot_reports_it() -> None:
    pending = PendingReports()
    pending.started("s", "r0001", 1)
    assert pending.all() == (Busy("s", "r0001", 1, Progress()),)
    pending.update("s", (BUSY,))
    assert pending.all() == (BUSY,)
    pending.started("s", "r0001", 1)
    assert pending.all() == (BUSY,)


def test_what_a_slot_does_not_report_any_more_is_lost_until_acknowledged() -> None:
    pending = PendingReports()
    pending.started("s", "r0001", 1)
    pending.update("s", ())
    [lost] = pending.all()
    assert isinstance(lost, Lost) and "knows nothing" in lost.reason
    pending.update("s", ())
    assert pending.all() == (lost,)
    pending.forget("s", "r0001", 1)
    assert pending.all() == ()


def test_a_lost_node_loses_what_was_busy_and_keeps_what_was_done() -> None:
    pending = PendingReports()
    pending.update("s", (DONE, Busy("s", "r0002", 1, Progress())))
    pending.lose("s", "node s is gone")
    assert pending.all() == (DONE, Lost("s", "r0002", 1, "node s is gone", from_outside=True))


def test_an_attempt_thought_lost_may_still_turn_out_done() -> None:
    pending = PendingReports()
    pending.update("s", (BUSY,))
    pending.lose("s", "node s is gone")
    pending.update("s", (DONE,))
    assert pending.all() == (DONE,)


def test_forgetting_the_unknown_is_nothing() -> None:
    pending = PendingReports()
    pending.forget("s", "r0001", 1)
    assert pending.all() == ()
