"""What this machine is: its boot id, its processor, the cores this process may use, its GPUs.

Read once when a slot's supervisor starts. Decides nothing: `slot_layout` does.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from scheduler.node.gpu import Gpu, GpuUnavailable, mps_running, read_gpus

TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Machine:
    """`cores`: usable logical cores, one per physical core first, their hyper-thread siblings after them."""

    boot_id: str
    cpu_name: str
    cores: tuple[int, ...]
    physical_cores: int
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str = ""  # why no GPU here may be used; "" when they may


def read_machine(*, gpus: bool) -> Machine:
    """Facts of the machine this process runs on. GPUs are asked for only when `gpus` says so."""
    cores = usable_cores()
    ordered, physical = order_cores(cores, {core: _siblings(core) for core in cores})
    found, problem = _gpus() if gpus else ((), "")
    return Machine(boot_id(), cpu_name(), ordered, physical, found, problem)


def usable_cores() -> tuple[int, ...]:
    """Logical cores this process may run on, in order."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def order_cores(cores: tuple[int, ...], siblings: dict[int, frozenset[int]]) -> tuple[tuple[int, ...], int]:
    """Physical cores first, so that as few slots as possible share one; and how many physical cores there are."""
    first: list[int] = []
    later: list[int] = []
    seen: set[int] = set()
    for core in cores:
        (later if core in seen else first).append(core)
        seen |= siblings[core] | {core}
    return (*first, *later), len(first)


def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """Changes when the machine restarts; the host's name where the kernel has no such id."""
    try:
        return path.read_text().strip()
    except OSError:
        return platform.node()


def cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """Model of the processor."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _siblings(core: int) -> frozenset[int]:
    """Logical cores on the same physical core, from a list like "0,64" or "0-1"."""
    try:
        text = (TOPOLOGY / f"cpu{core}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return frozenset({core})
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return frozenset(found)


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    try:
        found = read_gpus()
    except GpuUnavailable as problem:
        return (), str(problem)
    if mps_running():
        return found, "an MPS daemon runs on this node: GPUs are shared and budgets not comparable; stop it first"
    return found, "" if found else "NVML lists no GPU"
