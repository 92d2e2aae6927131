"""Which slots a node offers, and which cores go with each. Pure: facts of a machine in, slot specs out.

One core per slot for contracts without a GPU; one whole GPU and an equal share of the cores for the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scheduler.node.gpu import Gpu
from scheduler.node.machine import Machine


@dataclass(frozen=True, slots=True)
class SlotSpec:
    """One slot as its supervisor knows it. `siblings` are all slot ids of the node; the first of them also answers
    for attempts of slots that are no longer offered."""

    slot_id: str
    node: str
    device: str  # "cpu" or "cuda"
    device_name: str
    index: int
    cpus: tuple[int, ...]
    boot_id: str = ""
    uuid: str = ""
    driver: str = ""
    siblings: tuple[str, ...] = ()
    problem: str = ""


def lay_out(machine: Machine, node: str, device: str, count: int | None = None) -> tuple[SlotSpec, ...]:
    """All slots of a node for contracts of one device ("cpu" or "cuda"), at most `count` of them."""
    specs = _gpu_slots(machine, node) if device == "cuda" else _cpu_slots(machine, node, count)
    specs = specs[:count]
    ids = tuple(spec.slot_id for spec in specs)
    return tuple(replace(spec, siblings=ids, boot_id=machine.boot_id) for spec in specs)


def broken_slot(machine: Machine, node: str, device: str, index: int, problem: str) -> SlotSpec:
    """A slot that exists in Ray's books but cannot be used, with the reason."""
    slot_id = _slot_id(node, device, index)
    return SlotSpec(slot_id, node, device, "", index, (), boot_id=machine.boot_id, problem=problem)


def share_cores(cores: tuple[int, ...], gpus: tuple[Gpu, ...]) -> tuple[tuple[int, ...], ...]:
    """As many cores for each GPU as for every other, near ones first. Fewer cores than GPUs: all share all."""
    share = len(cores) // max(len(gpus), 1)
    if share == 0:
        return tuple(cores for _ in gpus)
    left = list(cores)
    near = [_take(left, gpu.local_cpus, share) for gpu in gpus]
    return tuple(tuple(sorted([*own, *_take(left, cores, share - len(own))])) for own in near)


def _cpu_slots(machine: Machine, node: str, count: int | None) -> list[SlotSpec]:
    wanted = machine.physical_cores if count is None else count
    return [
        SlotSpec(_slot_id(node, "cpu", index), node, "cpu", machine.cpu_name, index, (core,))
        for index, core in enumerate(machine.cores[:wanted])
    ]


def _gpu_slots(machine: Machine, node: str) -> list[SlotSpec]:
    shares = share_cores(tuple(sorted(machine.cores)), machine.gpus)
    return [_gpu_slot(machine, node, gpu, cpus) for gpu, cpus in zip(machine.gpus, shares, strict=True)]


def _gpu_slot(machine: Machine, node: str, gpu: Gpu, cpus: tuple[int, ...]) -> SlotSpec:
    problem = machine.gpu_problem
    if gpu.mig:
        problem = f"MIG is on for GPU {gpu.index}: a slice is not a whole GPU; switch it off (nvidia-smi -mig 0)"
    return SlotSpec(
        _slot_id(node, "cuda", gpu.index), node, "cuda", gpu.name, gpu.index, cpus,
        uuid=gpu.uuid, driver=gpu.driver, problem=problem,
    )  # fmt: skip


def _slot_id(node: str, device: str, index: int) -> str:
    return f"{node}/{'gpu' if device == 'cuda' else 'cpu'}{index}"


def _take(left: list[int], wanted: tuple[int, ...], count: int) -> list[int]:
    """Remove up to `count` of the wanted cores from `left` and return them."""
    taken = [core for core in wanted if core in left][:count]
    for core in taken:
        left.remove(core)
    return taken
