"""What lives inside a Ray actor: finds out which slot it sits on and hands every call to that slot's supervisor.

Imports no Ray itself. Its constructor never fails, or Ray would call it again for ever: a seat that cannot be used is
a slot with a problem. Ray runs its methods one after the other on the process's main thread, as judges need it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Report, RunOrder, Slot
from scheduler.node.code_digest import code_digest
from scheduler.node.judge_process import Commands
from scheduler.node.machine import Machine, read_machine
from scheduler.node.slot_layout import SlotSpec, broken_slot, lay_out
from scheduler.node.spool import default_spool_root
from scheduler.node.supervisor import SlotSupervisor

MachineReader = Callable[[bool], Machine]


def read_this_machine(gpus: bool) -> Machine:
    return read_machine(gpus=gpus)


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How supervisors work on every node. `spool_root` None: each node's own default."""

    spool_root: Path | None = None
    commands: Commands = field(default_factory=Commands)
    read: MachineReader = read_this_machine


@dataclass(frozen=True, slots=True)
class Seat:
    """A place for one actor: the `index`-th of `count` on a node, for contracts of one device."""

    node: str
    device: str  # "cpu" or "cuda"
    index: int
    count: int
    code: str  # digest of the code that asks for this seat


class SlotActor:
    """One slot, reachable over Ray."""

    def __init__(self, seat: Seat, settings: NodeSettings) -> None:
        spec = find_spec(seat, settings.read(seat.device == "cuda"), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        self._retired = False
        self._supervisor = SlotSupervisor(spec, settings.spool_root or default_spool_root(), settings.commands)

    def probe(self, contract_json: str, lab_id: str) -> Slot:
        return self._supervisor.probe(contract_json, lab_id)

    def start(self, order: RunOrder) -> bool:
        if self._retired:
            raise PoolProblem("this slot's supervisor is being replaced by one of other code", "try again")
        return self._supervisor.start(order)

    def poll(self, lab_id: str) -> tuple[Report, ...]:
        return self._supervisor.poll(lab_id)

    def acknowledge(self, lab_id: str, run_id: str, attempt: int) -> None:
        self._supervisor.acknowledge(lab_id, run_id, attempt)

    def stop(self, lab_id: str, run_id: str, attempt: int) -> None:
        self._supervisor.stop(lab_id, run_id, attempt)

    def retire(self) -> bool:
        """Take no order any more and say yes, unless a run is going on."""
        self._retired = not self._supervisor.busy()
        return self._retired

    def close(self) -> None:
        self._supervisor.close()

    def pid(self) -> int:
        return os.getpid()


def find_spec(seat: Seat, machine: Machine, visible_gpus: str) -> SlotSpec:
    """The slot of a seat. A GPU is the one Ray reserved, which its environment names by index or UUID."""
    specs = lay_out(machine, seat.node, seat.device, seat.count if seat.device == "cpu" else None)
    spec = _reserved_gpu(seat, machine, specs, visible_gpus) if seat.device == "cuda" else _core(seat, machine, specs)
    here = code_digest()
    if here != seat.code:
        problem = f"node {seat.node} runs other arsched code ({here}) than this driver ({seat.code}); update the node"
        return replace(spec, problem=problem)
    return spec


def _core(seat: Seat, machine: Machine, specs: tuple[SlotSpec, ...]) -> SlotSpec:
    if seat.index < len(specs):
        return specs[seat.index]
    problem = f"the node lets arsched use {len(machine.cores)} cores, this would be number {seat.index + 1}"
    return broken_slot(machine, seat.node, "cpu", seat.index, problem)


def _reserved_gpu(seat: Seat, machine: Machine, specs: tuple[SlotSpec, ...], visible: str) -> SlotSpec:
    """Ray's own books count GPUs in NVML's order."""
    for spec in specs:
        if visible == str(spec.index) or (visible and spec.uuid.startswith(visible)):
            return spec
    reason = machine.gpu_problem or f"Ray reserved GPU {visible!r}, NVML lists no such one"
    return broken_slot(machine, seat.node, "cuda", seat.index, reason)
