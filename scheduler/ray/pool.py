"""The pool on Ray: one detached, named actor per slot, on this machine's embedded Ray or on a cluster.

Ray carries orders and answers and says which nodes live; nothing that matters is kept in it. A driver that dies leaves
the actors and runs of a cluster going, and the next one finds them by name. The only module that imports ray, and only
when a pool is connected. To be used from one thread, the one that connected it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Busy, Report, RunOrder, Slot
from scheduler.node.actor import NodeSettings
from scheduler.ray.cluster import ActorGone, NoAnswer, RayCluster
from scheduler.ray.session import OWN_PYTHON, environment, join_cluster, start_embedded
from scheduler.ray.slot_book import SlotBook
from scheduler.ray.slot_hands import Hand, SlotHands

ANSWER_S = 30.0  # for calls that answer in milliseconds
STOP_ANSWER_S = 60.0
POLL_WAIT_S = 0.5
SAY_EVERY_S = 5.0
NODES_JOIN_S = 15.0
PLACEMENT_BASE_S, PLACEMENT_PER_SLOT_S = 60.0, 1.5  # eight actors take 5 s at once, sixty-four a minute

GPU_HINT = "use a cluster (--address auto on its head node), or a lab that needs none: arsched init --contract cpu"
NODES_HINT = "look at the nodes with `ray status`; every node needs arsched installed, see cluster.yaml"
BUSY_HINT = "something else on this Ray cluster holds them: see `ray status`"


class RayPool:
    """Implements scheduler.domain.slot.Pool. Made by `connect`."""

    def __init__(
        self,
        cluster: RayCluster,
        contract_json: str,
        lab_id: str,
        settings: NodeSettings,
        most: int | None = None,
    ) -> None:
        self._cluster = cluster
        self._lab_id = lab_id
        self._device = contract_device(contract_json)
        self._book = SlotBook()
        gone = self._book.gone
        self._hands = SlotHands(cluster, self._device, contract_json, lab_id, settings, most=most, on_gone=gone)

    @classmethod
    def connect(
        cls,
        address: str | None,
        slots: int | None,
        contract_json: str,
        lab_id: str,
        *,
        settings: NodeSettings | None = None,
        say: Callable[[str], None] = lambda line: None,
        placement_s: float | None = None,
    ) -> RayPool:
        """Join the cluster at `address` ("auto", "host:port", else RAY_ADDRESS), or start Ray on this machine.

        `slots` limits how many are used; None takes every GPU, or every physical core. Returns when every slot has
        answered or `placement_s` is over. Raises PoolProblem when none did.
        """
        settings = settings or NodeSettings()
        address = address or os.environ.get("RAY_ADDRESS") or None
        size = None if address else embedded_size(settings, contract_device(contract_json), slots)
        say(f"joining the Ray cluster at {address}" if address else "starting Ray on this machine (a few seconds)")
        with environment(OWN_PYTHON):
            import ray

        cluster = RayCluster(ray, start_embedded(ray, *size) if size else join_cluster(ray, address or "auto"))
        try:
            pool = cls(cluster, contract_json, lab_id, settings, slots)
            pool._await_slots(say, placement_s)
        except BaseException:
            cluster.leave()
            raise
        return pool

    def slots(self) -> tuple[Slot, ...]:
        self._hands.look_around()
        return tuple(sorted((hand.slot for hand in self._hands.all()), key=lambda slot: slot.id))

    def start(self, slot_id: str, order: RunOrder) -> None:
        hand = self._hands.of_slot(slot_id)
        hand.poll = None  # an answer under way knows nothing of this order
        self._book.begun(slot_id, order.run_id, order.attempt)
        try:
            known = self._ask(hand, ANSWER_S, "start", order)
        except (NoAnswer, ActorGone):
            return  # whether it began will show: the slot reports it, or it is lost
        except PoolProblem as problem:
            self._book.forget(slot_id, order.run_id, order.attempt)
            self._hands.complain(hand, problem.message)
            raise
        if not known:
            self._book.forget(slot_id, order.run_id, order.attempt)

    def poll(self) -> tuple[Report, ...]:
        self._hands.look_around()
        fresh = [hand for hand in self._hands.all() if hand.poll is None and hand.answered and not hand.gone]
        for hand in fresh:
            hand.poll, hand.poll_since = self._cluster.ask(hand.actor, "poll", self._lab_id), time.monotonic()
        self._cluster.answered([hand.poll for hand in fresh], POLL_WAIT_S)
        asked = {hand.poll: hand for hand in self._hands.all() if hand.poll is not None}
        for question in self._cluster.answered(list(asked), 0.0):
            self._hear(asked[question])
        return self._book.reports()

    def acknowledge(self, slot_id: str, run_id: str, attempt: int) -> None:
        self._book.forget(slot_id, run_id, attempt)
        with suppress(PoolProblem):  # a slot that is gone remembers nothing either
            hand = self._hands.of_slot(slot_id)
            hand.poll = None
            self._cluster.ask(hand.actor, "acknowledge", self._lab_id, run_id, attempt)

    def stop(self, slot_id: str, run_id: str, attempt: int) -> None:
        try:
            hand = self._hands.of_slot(slot_id)
        except PoolProblem:
            return  # its node is gone, and its runs with it
        hand.poll = None
        try:
            self._ask(hand, STOP_ANSWER_S, "stop", self._lab_id, run_id, attempt)
        except ActorGone:
            return  # judges die with their supervisor
        except NoAnswer:
            raise PoolProblem(f"{slot_id} did not say whether {run_id} is dead", "its node may be cut off") from None

    def close(self, *, stop_runs: bool) -> None:
        """Leave the pool. An embedded Ray ends here and its runs with it, whatever `stop_runs` says."""
        try:
            if self._cluster.embedded:
                questions = [self._cluster.ask(hand.actor, "close") for hand in self._hands.all()]
                self._cluster.answered(questions, STOP_ANSWER_S)
            elif stop_runs:
                self._stop_all()
        finally:
            self._cluster.leave()

    def _stop_all(self) -> None:
        for report in self._book.reports():
            if isinstance(report, Busy):
                self.stop(report.slot_id, report.run_id, report.attempt)

    def _ask(self, hand: Hand, timeout_s: float, method: str, *arguments: object) -> object:
        return self._cluster.answer(self._cluster.ask(hand.actor, method, *arguments), timeout_s)

    def _hear(self, hand: Hand) -> None:
        question, hand.poll = hand.poll, None
        try:
            self._book.heard(hand.slot.id, self._cluster.answer(question, 0.0))
        except NoAnswer:
            self._hands.silent(hand)
        except ActorGone as death:
            self._hands.bury(hand, str(death))
        except PoolProblem as problem:
            self._hands.complain(hand, problem.message)

    def _await_slots(self, say: Callable[[str], None], placement_s: float | None) -> None:
        """Return once every slot answered or was found dead, or time is up and some answered."""
        begun_at = said_at = time.monotonic()
        while not self._settled(time.monotonic() - begun_at, placement_s):
            self._hands.look_around()
            self._hands.take_probes(0.2)
            if not self._hands.all():
                time.sleep(0.2)
            if time.monotonic() - said_at > SAY_EVERY_S:
                said_at = time.monotonic()
                answered = sum(hand.answered for hand in self._hands.all())
                say(f"waiting for slots: {answered} of {len(self._hands.all())} answered")
        if not any(hand.answered for hand in self._hands.all()):
            raise self._nothing_came()

    def _settled(self, waited_s: float, placement_s: float | None) -> bool:
        hands = self._hands.all()
        if not hands:
            return waited_s > (NODES_JOIN_S if placement_s is None else placement_s)
        patience_s = PLACEMENT_BASE_S + PLACEMENT_PER_SLOT_S * len(hands) if placement_s is None else placement_s
        return all(hand.answered or hand.gone for hand in hands) or waited_s > patience_s

    def _nothing_came(self) -> PoolProblem:
        hands = self._hands.all()
        free = self._cluster.free_resources()
        if not hands:
            kind = "GPU" if self._device == "cuda" else "core"
            return PoolProblem(f"no node of this Ray cluster offers a {kind} ({free})", NODES_HINT)
        if self._hands.older_at_work:
            return PoolProblem(
                f"{self._hands.older_at_work} slots are finishing runs for another version of arsched",
                "wait for them, or stop that lab with: arsched cancel",
            )
        if all(hand.gone for hand in hands):
            return PoolProblem(f"no slot came up: {hands[0].slot.problem}", NODES_HINT)
        return PoolProblem(f"Ray gave none of {len(hands)} slots a place in time ({free})", BUSY_HINT)


def contract_device(contract_json: str) -> str:
    """ "cpu" or "cuda", as the contract says. Raises PoolProblem."""
    try:
        device = json.loads(contract_json)["device"]
    except (ValueError, KeyError, TypeError):
        device = None
    if device not in ("cpu", "cuda"):
        raise PoolProblem("the contract names no device", "make it again with: arsched init --contract NAME")
    return str(device)


def embedded_size(settings: NodeSettings, device: str, slots: int | None) -> tuple[int, int]:
    """Cores and GPUs an embedded Ray shall count. Raises PoolProblem when this machine cannot give the slots."""
    machine = settings.read(device == "cuda")
    there = len(machine.gpus) if device == "cuda" else len(machine.cores)
    if device == "cuda" and there == 0:
        raise PoolProblem(f"the contract needs a GPU and this machine has none ({machine.gpu_problem})", GPU_HINT)
    if slots is not None and not 1 <= slots <= there:
        kind = "GPUs" if device == "cuda" else "cores"
        raise PoolProblem(f"{slots} slots asked for, this machine has {there} {kind}", f"choose 1 to {there}")
    if device == "cuda":
        return len(machine.cores), there
    return slots or machine.physical_cores, 0
