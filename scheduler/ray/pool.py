"""The pool on Ray: one detached, named actor per slot, on this machine's embedded Ray or on a cluster.

Ray carries orders and answers and knows which nodes live; nothing that matters is kept in it. A driver that dies leaves
the actors and runs of a cluster going, and the next one finds them by name. The only module that imports ray, and only
when a pool is connected. To be used from one thread, the one that connected it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from scheduler.domain.errors import NoSlots, PoolProblem
from scheduler.domain.slot import Busy, Report, RunOrder, Slot
from scheduler.node.code import code_digest
from scheduler.node.machine import read_machine
from scheduler.node.supervisor import NodeSettings, SlotAssignment
from scheduler.ray import cluster
from scheduler.ray.cluster import ActorGone, NoAnswer, RayCluster, RayNode
from scheduler.ray.failures import gone_failure, slots_failure
from scheduler.ray.pending import PendingReports

ANSWER_S = 30.0  # for calls that answer in milliseconds
STOP_ANSWER_S = 60.0
POLL_WAIT_S, LOG_EVERY_S = 0.5, 5.0
NODES_JOIN_S = 15.0
PLACEMENT_BASE_S, PLACEMENT_PER_SLOT_S = 60.0, 1.5  # eight actors take 5 s at once, sixty-four a minute
NODES_EVERY_S = 2.0
PROBE_EVERY_S, PROBE_BROKEN_EVERY_S = 30.0, 5.0
REVIVE_EVERY_S = RETIRE_EVERY_S = 10.0
SILENT_AFTER_S = 30.0
HEAD_AWAY_S = 6.0  # Ray itself ends this process after sixty

GPU_HINT = "use a cluster (--address auto on its head node), or a lab that needs none: arsched init --contract cpu"
NODES_HINT = "look at the nodes with `ray status`; every node needs arsched installed, see cluster.yaml"
BARE_HINT = (
    "Ray counts what a node has when it starts there (nvidia-smi; a Slurm job needs --gpus-per-node or --gres); nodes "
    "that are missing are named by `arsched doctor --address auto` on the head"
)


@dataclass(slots=True)
class ActorHandle:
    """One slot's actor and the calls to it that have no answer yet."""

    assignment: SlotAssignment
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


class RayPool:
    """Implements scheduler.domain.slot.Pool. Made by `connect`."""

    def __init__(
        self,
        cluster: RayCluster,
        contract_json: str,
        lab_id: str,
        settings: NodeSettings,
        most: int | None = None,
        *,
        sandbox: str = "full",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._contract_json = contract_json
        self._device = contract_device(contract_json)
        self._lab_id = lab_id
        self._settings, self._sandbox = settings, sandbox
        self._most = most
        self._clock = clock
        self._pending = PendingReports()
        self._handles: dict[tuple[str, int], ActorHandle] = {}  # by node id and index
        self._names: dict[str, str] = {}  # node id -> name
        self._nodes_due_at = self._retire_due_at = float("-inf")
        self._head_due_at, self._away_since = float("-inf"), float("inf")
        self._older_at_work = 0  # actors of other code that still have a run

    @classmethod
    def connect(
        cls,
        address: str | None,
        slots: int | None,
        contract_json: str,
        lab_id: str,
        *,
        sandbox: str = "full",
        settings: NodeSettings | None = None,
        log: Callable[[str], None] = lambda line: None,
        placement_s: float | None = None,
    ) -> RayPool:
        """Join the cluster at `address` ("auto": RAY_ADDRESS or this machine's; "host:port"), or start Ray here.

        `slots` limits how many are used; None takes every GPU, or every physical core. Returns when every slot has
        answered or `placement_s` has passed. Raises PoolProblem when none did, UsageProblem for a wrong address.
        """
        settings = settings or NodeSettings()
        if not address and os.environ.get("RAY_ADDRESS"):
            log(f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} is not used: this machine alone; --address auto joins it")
        size = None if address else embedded_size(contract_device(contract_json), slots)
        log(f"joining the Ray cluster at {address}" if address else "starting Ray on this machine (a few seconds)")
        connection = cluster.start_embedded(_ray(), *size) if size else join(address or "auto")
        try:
            pool = cls(connection, contract_json, lab_id, settings, slots, sandbox=sandbox)
            pool._await_slots(log, placement_s)
        except BaseException:
            connection.leave()
            raise
        return pool

    @property
    def detached(self) -> bool:
        """Whether runs go on when this process leaves: on a cluster. An embedded Ray ends with it."""
        return not self._cluster.embedded

    @property
    def address(self) -> str:
        """ "host:port" of the cluster's head where that is known; "" for an embedded Ray."""
        return self._cluster.address

    def slots(self) -> tuple[Slot, ...]:
        self._refresh()
        return tuple(sorted((handle.slot for handle in self._handles.values()), key=lambda slot: slot.id))

    def addresses(self) -> frozenset[str]:
        """Addresses of the living nodes, as they know each other."""
        return frozenset(node.address for node in self._cluster.nodes())

    def bare_nodes(self) -> tuple[str, ...]:
        """Names of the living nodes that offer nothing the contract needs: no GPU, or none that Ray found."""
        return tuple(node.host for node in self._cluster.nodes() if not self._offered(node))

    def start(self, slot_id: str, order: RunOrder) -> None:
        handle = self._handle_of(slot_id)
        handle.poll = None  # an answer under way knows nothing of this order
        self._pending.started(slot_id, order.run_id, order.attempt)
        try:
            known = self._cluster.answer(self._cluster.ask(handle.actor, "start", order), ANSWER_S)
        except (NoAnswer, ActorGone):
            return  # whether it began will show: the slot reports it, or it is lost
        except PoolProblem as problem:
            self._pending.forget(slot_id, order.run_id, order.attempt)
            self._mark_broken(handle, problem.message)
            raise
        if not known:
            self._pending.forget(slot_id, order.run_id, order.attempt)

    def poll(self) -> tuple[Report, ...]:
        self._refresh()
        if self._away_since <= self._clock():
            return self._pending.all()
        due = [h for h in self._handles.values() if h.poll is None and h.answered and not h.gone]
        for handle in due:
            handle.poll = self._cluster.ask(handle.actor, "poll", self._lab_id)
            handle.poll_since = self._clock()
        self._cluster.answered([handle.poll for handle in due], POLL_WAIT_S)
        open_polls = {handle.poll: handle for handle in self._handles.values() if handle.poll is not None}
        for call in self._cluster.answered(list(open_polls), 0.0):
            handle = open_polls[call]
            handle.poll = None
            reports = self._receive(handle, call)
            if reports is not None:
                self._pending.update(handle.slot.id, reports)
        return self._pending.all()

    def acknowledge(self, slot_id: str, run_id: str, attempt: int) -> None:
        self._pending.forget(slot_id, run_id, attempt)
        with suppress(PoolProblem):  # a slot that is gone remembers nothing either
            handle = self._handle_of(slot_id)
            handle.poll = None
            self._cluster.ask(handle.actor, "acknowledge", self._lab_id, run_id, attempt)

    def stop(self, slot_id: str, run_id: str, attempt: int) -> None:
        try:
            handle = self._handle_of(slot_id)
        except PoolProblem:
            return  # its node is gone, and its runs with it
        handle.poll = None
        try:
            call = self._cluster.ask(handle.actor, "stop", self._lab_id, run_id, attempt)
            self._cluster.answer(call, STOP_ANSWER_S)
        except ActorGone:
            return  # judges die with their supervisor
        except NoAnswer:
            raise PoolProblem(f"{slot_id} did not report whether {run_id} is dead", "its node may be cut off") from None

    def close(self, *, stop_runs: bool) -> None:
        """Leave the pool. An embedded Ray ends here and its runs with it, whatever `stop_runs` is."""
        try:
            if self._cluster.embedded:
                calls = [self._cluster.ask(handle.actor, "close") for handle in self._handles.values()]
                self._cluster.answered(calls, STOP_ANSWER_S)
            elif stop_runs:
                for report in self._pending.all():
                    if isinstance(report, Busy):
                        self.stop(report.slot_id, report.run_id, report.attempt)
        finally:
            if self._away_since == float("inf"):  # Ray hangs without its head
                self._cluster.leave()

    def _await_slots(self, log: Callable[[str], None], placement_s: float | None) -> None:
        """Return once every slot answered or was found dead, or time is up and some answered."""
        begun_at = logged_at = self._clock()
        while not self._settled(self._clock() - begun_at, placement_s):
            self._refresh()
            self._take_probes(0.2)
            if not self._handles:
                time.sleep(0.2)
            if self._clock() - logged_at > LOG_EVERY_S:
                logged_at = self._clock()
                answered = sum(handle.answered for handle in self._handles.values())
                log(f"waiting for slots: {answered} of {len(self._handles)} answered")
        if not any(handle.answered for handle in self._handles.values()):
            why = self._why_none()
            problem = NoSlots(why.message, why.hint)
            problem.addresses = self.addresses()
            raise problem

    def _settled(self, waited_s: float, placement_s: float | None) -> bool:
        handles = self._handles.values()
        if not handles:
            return waited_s > (NODES_JOIN_S if placement_s is None else placement_s)
        limit_s = PLACEMENT_BASE_S + PLACEMENT_PER_SLOT_S * len(handles) if placement_s is None else placement_s
        return all(handle.answered or handle.gone for handle in handles) or waited_s > limit_s

    def _why_none(self) -> PoolProblem:
        handles = list(self._handles.values())
        free = self._cluster.free_resources()
        if not handles:
            kind = "GPU" if self._device == "cuda" else "core"
            return PoolProblem(f"no node of this Ray cluster offers a {kind} ({free})", BARE_HINT)
        if self._older_at_work:
            return PoolProblem(
                f"{self._older_at_work} slots are finishing runs for another version of arsched",
                "wait for them, or stop that lab with: arsched cancel",
            )
        if all(handle.gone for handle in handles):
            return PoolProblem(f"no slot came up: {handles[0].slot.problem}", NODES_HINT)
        embedded, any_free = self._cluster.embedded, self._cluster.offers(self._device)
        return slots_failure(len(handles), free, embedded=embedded, any_free=any_free)

    def _handle_of(self, slot_id: str) -> ActorHandle:
        """Raises PoolProblem naming the slots there are."""
        by_id = {handle.slot.id: handle for handle in self._handles.values()}
        if slot_id not in by_id:
            raise PoolProblem(f"no slot {slot_id}", f"slots now: {', '.join(sorted(by_id)) or 'none at all'}")
        return by_id[slot_id]

    def _receive(self, handle: ActorHandle, call: Any) -> Any:
        """The answer of a call that has one; None where the slot has a problem instead."""
        try:
            return self._cluster.answer(call, 0.0)
        except NoAnswer:
            self._mark_silent(handle)
        except ActorGone as death:  # a dead node takes its slots along; on a living one the actor is made anew
            handle.gone, handle.probe, handle.poll = True, None, None
            handle.slot = replace(handle.slot, problem=f"its supervisor ended: {death}")
            self._nodes_due_at = float("-inf")
        except PoolProblem as problem:
            self._mark_broken(handle, problem.message)
        return None

    def _mark_broken(self, handle: ActorHandle, problem: str) -> None:
        """Nothing is to be placed there until a probe, soon, finds it well."""
        handle.slot = replace(handle.slot, problem=problem)
        handle.probe_due_at = min(handle.probe_due_at, self._clock() + PROBE_BROKEN_EVERY_S)

    def _mark_silent(self, handle: ActorHandle) -> None:
        self._mark_broken(handle, "its supervisor does not answer; the node may be restarting or cut off")

    def _refresh(self) -> None:
        """Notice nodes that joined or left, revive dead actors, probe slots. Never blocks for long."""
        now = self._clock()
        if self._is_cut_off(now):
            return
        if now >= self._retire_due_at:
            self._older_at_work = self._cluster.retire_others(code_digest())
            self._retire_due_at = now + RETIRE_EVERY_S
        if now >= self._nodes_due_at:
            self._follow_nodes(self._cluster.nodes())
            self._nodes_due_at = now + NODES_EVERY_S
        for handle in self._handles.values():
            if handle.gone and now - handle.placed_at > REVIVE_EVERY_S:
                handle.actor = self._cluster.place(handle.assignment, handle.node_id, self._settings)
                handle.gone, handle.placed_at, handle.probe_due_at = False, now, now
            if handle.probe is None and not handle.gone and now >= handle.probe_due_at:
                handle.probe = self._cluster.ask(
                    handle.actor, "probe", self._contract_json, self._lab_id, self._sandbox
                )
            if handle.poll is not None and now - handle.poll_since > SILENT_AFTER_S:
                self._mark_silent(handle)
        self._take_probes(0.0)

    def _is_cut_off(self, now: float) -> bool:
        """Whether the cluster's head is away: nothing is asked of it then. Raises PoolProblem once that lasts."""
        if now >= self._head_due_at:
            self._head_due_at = now + NODES_EVERY_S
            self._away_since = float("inf") if self._cluster.is_there() else min(self._away_since, now)
        if now - self._away_since >= HEAD_AWAY_S:
            raise gone_failure(self._cluster.address)
        return self._away_since <= now

    def _take_probes(self, timeout_s: float) -> None:
        """Read the probes that have an answer, waiting at most `timeout_s` for all."""
        open_probes = {handle.probe: handle for handle in self._handles.values() if handle.probe is not None}
        for call in self._cluster.answered(list(open_probes), timeout_s):
            handle = open_probes[call]
            handle.probe = None
            slot: Slot | None = self._receive(handle, call)
            if slot is not None:
                if handle.answered and slot.id != handle.slot.id:  # Ray gave the revived actor another GPU
                    self._pending.lose(handle.slot.id, "its supervisor ended")
                handle.slot, handle.answered = slot, True
            handle.probe_due_at = self._clock() + (PROBE_BROKEN_EVERY_S if handle.slot.problem else PROBE_EVERY_S)

    def _follow_nodes(self, nodes: tuple[RayNode, ...]) -> None:
        living = {node.id for node in nodes}
        for key in [key for key in self._handles if key[0] not in living]:
            handle = self._handles.pop(key)
            self._cluster.kill(handle.actor)
            self._pending.lose(handle.slot.id, f"node {handle.assignment.node} is gone")
        self._names = {node_id: name for node_id, name in self._names.items() if node_id in living}
        for node in nodes:
            if node.id not in self._names:  # the host's name, made unique where two nodes share one
                taken = node.host in self._names.values()
                self._names[node.id] = f"{node.host}-{node.id[:6]}" if taken else node.host
            count = self._offered(node)
            for index in range(count):
                if (node.id, index) not in self._handles and (self._most is None or len(self._handles) < self._most):
                    self._handles[node.id, index] = self._new_handle(node.id, index, count)

    def _offered(self, node: RayNode) -> int:
        return node.gpus if self._device == "cuda" else node.cpus

    def _new_handle(self, node_id: str, index: int, count: int) -> ActorHandle:
        name = self._names[node_id]
        assignment = SlotAssignment(name, self._device, index, count, code_digest())
        actor = self._cluster.place(assignment, node_id, self._settings)
        kind = f"cpu{index}" if self._device == "cpu" else f"gpu?{index}"  # which one, Ray decides
        slot = Slot(f"{name}/{kind}", name, "", self._device, "", "", "", problem="its supervisor is starting")
        return ActorHandle(assignment, node_id, actor, slot, self._clock())


def join(address: str) -> RayCluster:
    """A connection to a running cluster, without slots. Raises PoolProblem, UsageProblem."""
    return cluster.join_cluster(_ray(), address)


def _ray() -> Any:
    with cluster.environment(cluster.OWN_PYTHON):
        import ray
    return ray


def contract_device(contract_json: str) -> str:
    """ "cpu" or "cuda", the device of a contract. Raises PoolProblem."""
    try:
        device = json.loads(contract_json)["device"]
    except (ValueError, KeyError, TypeError):
        device = None
    if device not in ("cpu", "cuda"):
        raise PoolProblem("the contract names no device", "make it again with: arsched init --contract NAME")
    return str(device)


def embedded_size(device: str, slots: int | None) -> tuple[int, int]:
    """Cores and GPUs an embedded Ray shall count. Raises PoolProblem when this machine cannot give the slots."""
    machine = read_machine(device == "cuda")
    there, kind = (len(machine.gpus), "GPUs") if device == "cuda" else (len(machine.cores), "cores")
    if device == "cuda" and there == 0:
        raise PoolProblem(f"the contract needs a GPU and this machine has none ({machine.gpu_problem})", GPU_HINT)
    if slots is not None and not 1 <= slots <= there:
        raise PoolProblem(f"{slots} slots asked for, this machine has {there} {kind}", f"choose 1 to {there}")
    return (len(machine.cores), there) if device == "cuda" else (slots or machine.physical_cores, 0)
