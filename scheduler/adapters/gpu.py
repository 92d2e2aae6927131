"""GPUs of this machine, asked of NVML: who they are, and who computes on them. The only module that says pynvml.

Does not touch CUDA and changes no setting. A machine without a driver simply has no GPUs and says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MPS_PROCESS_PREFIX = "nvidia-cuda-mps"  # control daemon and server; /proc/<pid>/comm cuts names at 15 characters
CPU_MASK_BITS = 64


class GpuUnavailable(Exception):
    """NVML cannot answer: no driver, no library, or a GPU that fell off the bus."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML names it; `index` counts in PCI bus order, `local_cpus` are the cores nearest to it."""

    index: int
    uuid: str
    name: str
    driver: str
    mig: bool = False
    local_cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds a compute context; the pid is the host's, also from inside a container."""

    pid: int
    name: str


def read_gpus() -> tuple[Gpu, ...]:
    """Every GPU of this machine in PCI bus order. Raises GpuUnavailable."""
    with _nvml() as nvml:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        return tuple(_read_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))


def compute_processes(uuid: str) -> tuple[GpuProcess, ...]:
    """Processes computing on one GPU right now. Raises GpuUnavailable."""
    with _nvml() as nvml:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return tuple(GpuProcess(int(entry.pid), _process_name(nvml, int(entry.pid))) for entry in running)


def mps_running(proc: Path = Path("/proc")) -> bool:
    """Whether an MPS daemon or server runs here: its clients share one GPU, so their budgets are not comparable."""
    return any(_command(entry).startswith(MPS_PROCESS_PREFIX) for entry in proc.glob("[0-9]*/comm"))


@contextmanager
def _nvml() -> Iterator[Any]:
    try:
        import pynvml
    except ImportError as problem:
        raise GpuUnavailable(f"nvidia-ml-py is not installed: {problem}") from None
    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as problem:
        raise GpuUnavailable(f"NVML: {problem}") from None


def _read_gpu(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
    return Gpu(index, uuid, name, driver, _mig_enabled(nvml, handle), _local_cpus(nvml, handle))


def _mig_enabled(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # GPUs that cannot do MIG refuse the question
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _local_cpus(nvml: Any, handle: Any) -> tuple[int, ...]:
    """Cores of the GPU's NUMA node; empty where the driver does not say (virtual machines)."""
    words = (max(_possible_cpus(), 1) + CPU_MASK_BITS - 1) // CPU_MASK_BITS
    try:
        mask = list(nvml.nvmlDeviceGetCpuAffinity(handle, words))
    except nvml.NVMLError:
        return ()
    return tuple(
        word * CPU_MASK_BITS + bit
        for word, value in enumerate(mask)
        for bit in range(CPU_MASK_BITS)
        if int(value) >> bit & 1
    )


def _possible_cpus(path: Path = Path("/sys/devices/system/cpu/possible")) -> int:
    """Highest core number plus one, from a list like "0-127"."""
    try:
        return int(path.read_text().strip().replace(",", "-").rsplit("-", 1)[-1]) + 1
    except (OSError, ValueError):
        return CPU_MASK_BITS


def _process_name(nvml: Any, pid: int) -> str:
    try:
        return _text(nvml.nvmlSystemGetProcessName(pid))
    except nvml.NVMLError:  # of another container, or gone meanwhile
        return "unknown"


def _command(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # the process ended meanwhile
        return ""


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
