"""What this machine is (boot id, processor, usable cores, GPUs), and which slots it offers, with which cores.

One core per slot for contracts without a GPU; one whole GPU and an equal share of the cores for the others. The layout
is pure: facts of a machine in, slot specs out.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from scheduler.node.cores import order_cores, read_groups, share_cores
from scheduler.node.gpu import Gpu, GpuUnavailable, mps_running, read_gpus


@dataclass(frozen=True, slots=True)
class Machine:
    """`cores`: usable logical cores, one per physical core first, their hyper-thread siblings after them."""

    boot_id: str
    cpu_name: str
    cores: tuple[int, ...]
    physical_cores: int
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str = ""  # why no GPU here may be used; "" when they may
    groups: tuple[tuple[int, ...], ...] = ()  # the cores by physical core; none: each is one of its own


@dataclass(frozen=True, slots=True)
class SlotSpec:
    """One slot as its supervisor knows it. `siblings` are all slot ids of the node; the first of them also answers
    for attempts of slots that are no longer offered."""

    node: str
    device: str  # "cpu" or "cuda"
    index: int
    device_name: str = ""
    cpus: tuple[int, ...] = ()
    boot_id: str = ""
    uuid: str = ""
    driver: str = ""
    siblings: tuple[str, ...] = ()
    problem: str = ""
    far_cpus: int = 0  # of `cpus`, those of another NUMA node than the GPU's

    @property
    def slot_id(self) -> str:
        return f"{self.node}/{'gpu' if self.device == 'cuda' else 'cpu'}{self.index}"


def read_machine(gpus: bool) -> Machine:
    """Facts of the machine this process runs on. NVML is asked only with `gpus`."""
    cores = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    groups = read_groups(cores)
    ordered, physical = order_cores(groups)
    found: tuple[Gpu, ...] = ()
    problem = ""
    if gpus:
        try:
            found = read_gpus()
            problem = "" if found else "NVML lists no GPU"
            if mps_running():
                problem = "an MPS daemon runs on this node: GPUs are shared and budgets not comparable; stop it first"
        except GpuUnavailable as raised:
            problem = str(raised)
    return Machine(boot_id(), cpu_name(), ordered, physical, found, problem, groups)


def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """Changes when the machine restarts; the host's name where the kernel has no such id."""
    with suppress(OSError):
        return path.read_text().strip()
    return platform.node()


def cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """Model of the processor."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def lay_out(machine: Machine, node: str, device: str, count: int | None = None) -> tuple[SlotSpec, ...]:
    """All slots of a node for contracts of one device ("cpu" or "cuda"), at most `count` of them."""
    if device == "cuda":
        groups = machine.groups or [(core,) for core in machine.cores]
        shares = share_cores(groups, [gpu.local_cpus for gpu in machine.gpus])
        specs = [_gpu_slot(machine, node, gpu, cpus) for gpu, cpus in zip(machine.gpus, shares, strict=True)][:count]
    else:
        cores = machine.cores[: machine.physical_cores if count is None else count]
        specs = [SlotSpec(node, "cpu", index, machine.cpu_name, (core,)) for index, core in enumerate(cores)]
    ids = tuple(spec.slot_id for spec in specs)
    return tuple(replace(spec, siblings=ids, boot_id=machine.boot_id) for spec in specs)


def _gpu_slot(machine: Machine, node: str, gpu: Gpu, cpus: tuple[int, ...]) -> SlotSpec:
    problem = machine.gpu_problem
    if gpu.mig:
        problem = f"MIG is on for GPU {gpu.index}: a slice is not a whole GPU; switch it off (nvidia-smi -mig 0)"
    far = len(set(cpus) - set(gpu.local_cpus)) if gpu.local_cpus else 0
    named = SlotSpec(node, "cuda", gpu.index, gpu.name, cpus, uuid=gpu.uuid, driver=gpu.driver)
    return replace(named, problem=problem, far_cpus=far)
