"""The driver's hands on all slots: one per seat of every living node, probed now and then, revived when they die.

Knows the cluster only through `RayCluster`'s words, and the time through a clock it is given. What comes of runs is
`slot_book`; this is about slots: which there are, whether they answer, what is wrong with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Slot
from scheduler.node.actor import NodeSettings, Seat
from scheduler.node.code_digest import code_digest
from scheduler.ray.cluster import ActorGone, NoAnswer, RayCluster, RayNode

NODES_EVERY_S = 2.0
PROBE_EVERY_S = 30.0
PROBE_BROKEN_EVERY_S = 5.0
REVIVE_EVERY_S = 10.0
RETIRE_EVERY_S = 10.0
SILENT_AFTER_S = 30.0


@dataclass(slots=True)
class Hand:
    """One slot's actor and the questions to it that are still open."""

    seat: Seat
    node_id: str
    actor: Any
    slot: Slot
    placed_at: float
    answered: bool = False  # ever
    probe: Any = None
    probe_due_at: float = 0.0
    poll: Any = None
    poll_since: float = 0.0
    gone: bool = False

    def complain(self, problem: str) -> None:
        self.slot = replace(self.slot, problem=problem)


class SlotHands:
    """All slots of a cluster for contracts of one device."""

    def __init__(
        self,
        cluster: RayCluster,
        device: str,
        contract_json: str,
        lab_id: str,
        settings: NodeSettings,
        *,
        most: int | None = None,
        on_gone: Callable[[str, str], None] = lambda slot_id, reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._device = device
        self._contract_json = contract_json
        self._lab_id = lab_id
        self._settings = settings
        self._most = most
        self._on_gone = on_gone  # slot id, reason: a node died
        self._clock = clock
        self._hands: dict[tuple[str, int], Hand] = {}
        self._names: dict[str, str] = {}  # node id -> name
        self._nodes_due_at = self._retire_due_at = float("-inf")
        self.older_at_work = 0  # actors of other code that still have a run

    def all(self) -> tuple[Hand, ...]:
        return tuple(self._hands.values())

    def of_slot(self, slot_id: str) -> Hand:
        """The hand of one slot. Raises PoolProblem."""
        for hand in self._hands.values():
            if hand.slot.id == slot_id:
                return hand
        known = ", ".join(sorted(hand.slot.id for hand in self._hands.values())) or "none at all"
        raise PoolProblem(f"no slot {slot_id}", f"slots now: {known}")

    def look_around(self) -> None:
        """Notice nodes that joined or left, revive dead actors, ask slots how they are. Never blocks for long."""
        now = self._clock()
        if now >= self._retire_due_at:
            self.older_at_work = self._cluster.retire_others(code_digest())
            self._retire_due_at = now + RETIRE_EVERY_S
        if now >= self._nodes_due_at:
            self._follow_nodes(self._cluster.nodes())
            self._nodes_due_at = now + NODES_EVERY_S
        for hand in self.all():
            self._revive(hand, now)
            self._ask_probe(hand, now)
        self.take_probes(0.0)

    def take_probes(self, timeout_s: float) -> None:
        """Read the answers to probes that are there, waiting at most so long for all."""
        open_ones = {hand.probe: hand for hand in self.all() if hand.probe is not None}
        for question in self._cluster.answered(list(open_ones), timeout_s):
            self._take_probe(open_ones[question])

    def silent(self, hand: Hand) -> None:
        """The actor did not answer; Ray may be restarting it."""
        self.complain(hand, "its supervisor does not answer; the node may be restarting or cut off")

    def complain(self, hand: Hand, problem: str) -> None:
        """Nothing is to be placed there until a probe, soon, finds it well."""
        hand.complain(problem)
        hand.probe_due_at = min(hand.probe_due_at, self._clock() + PROBE_BROKEN_EVERY_S)

    def bury(self, hand: Hand, reason: str) -> None:
        """The actor is dead for good. A dead node takes its slots along; on a living one it is made anew."""
        hand.gone, hand.probe, hand.poll = True, None, None
        hand.complain(f"its supervisor ended: {reason}")
        self._nodes_due_at = float("-inf")

    def _follow_nodes(self, nodes: tuple[RayNode, ...]) -> None:
        living = {node.id for node in nodes}
        for key in [key for key in self._hands if key[0] not in living]:
            hand = self._hands.pop(key)
            self._cluster.kill(hand.actor)
            self._on_gone(hand.slot.id, f"node {hand.seat.node} is gone")
        self._names = {node_id: name for node_id, name in self._names.items() if node_id in living}
        for node in nodes:
            self._take_seats(node)

    def _take_seats(self, node: RayNode) -> None:
        name = self._name(node)
        count = node.gpus if self._device == "cuda" else node.cpus
        for index in range(count):
            if (node.id, index) not in self._hands and (self._most is None or len(self._hands) < self._most):
                seat = Seat(name, self._device, index, count, code_digest())
                self._hands[node.id, index] = self._new_hand(seat, node.id)

    def _new_hand(self, seat: Seat, node_id: str) -> Hand:
        actor = self._cluster.place(seat, node_id, self._settings)
        kind = f"cpu{seat.index}" if seat.device == "cpu" else f"gpu?{seat.index}"  # which one, Ray decides
        slot = Slot(f"{seat.node}/{kind}", seat.node, "", seat.device, "", "", "", problem="its supervisor is starting")
        return Hand(seat, node_id, actor, slot, self._clock())

    def _name(self, node: RayNode) -> str:
        """The host's name, made unique where two nodes of a cluster share one."""
        if node.id not in self._names:
            taken = node.host in self._names.values()
            self._names[node.id] = f"{node.host}-{node.id[:6]}" if taken else node.host
        return self._names[node.id]

    def _revive(self, hand: Hand, now: float) -> None:
        if hand.gone and now - hand.placed_at > REVIVE_EVERY_S:
            hand.actor = self._cluster.place(hand.seat, hand.node_id, self._settings)
            hand.gone, hand.placed_at, hand.probe_due_at = False, now, now

    def _ask_probe(self, hand: Hand, now: float) -> None:
        if hand.probe is None and not hand.gone and now >= hand.probe_due_at:
            hand.probe = self._cluster.ask(hand.actor, "probe", self._contract_json, self._lab_id)
        if hand.poll is not None and now - hand.poll_since > SILENT_AFTER_S:
            self.silent(hand)

    def _take_probe(self, hand: Hand) -> None:
        question, hand.probe = hand.probe, None
        try:
            slot: Slot = self._cluster.answer(question, 0.0)
            if hand.answered and slot.id != hand.slot.id:  # Ray gave the revived actor another GPU
                self._on_gone(hand.slot.id, "its supervisor ended")
            hand.slot, hand.answered = slot, True
        except NoAnswer:
            self.silent(hand)
        except ActorGone as death:
            self.bury(hand, str(death))
        except PoolProblem as problem:
            hand.complain(problem.message)
        hand.probe_due_at = self._clock() + (PROBE_BROKEN_EVERY_S if hand.slot.problem else PROBE_EVERY_S)
