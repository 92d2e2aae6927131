"""GPUs of this machine, asked of NVML: who they are, who computes on them, and what limits them just now.
The only module that says pynvml.

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
LEAST_FREE_SHARE = 0.9  # of a GPU's memory while nobody uses it; drivers and desktops keep some for themselves
# Answers of WSL, vGPU, gVisor and drivers older than the binding: the question cannot be answered, the GPU is well.
CANNOT_TELL = (
    "NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_NO_PERMISSION", "NVML_ERROR_FUNCTION_NOT_FOUND",
    "NVML_ERROR_OPERATING_SYSTEM", "NVML_ERROR_ARGUMENT_VERSION_MISMATCH",
)  # fmt: skip
# Reasons for which a GPU runs slower than it could, as NVML's bit masks name them. Left out: idle, and the power cap
# that every GPU under load works against.
SLOWDOWNS = (
    ("SwThermalSlowdown", "it is too hot"),
    ("HwThermalSlowdown", "it is far too hot"),
    ("HwPowerBrakeSlowdown", "its power supply asks it to"),
    ("HwSlowdown", "heat or power supply force it to"),
    ("ApplicationsClocksSetting", "its clocks are set by hand"),
    ("SyncBoost", "it waits for a slower GPU (sync boost)"),
)


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


@dataclass(frozen=True, slots=True)
class Driver:
    """The NVIDIA driver: its version, and the newest CUDA (major, minor) it runs, None when it does not say."""

    version: str
    cuda: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class GpuState:
    """What limits one GPU just now. Memory in bytes, power in W, clocks of the SMs in MHz.

    None: the GPU or its driver does not say. `minor` is N of /dev/nvidiaN. `slowdowns`: reasons, in words.
    """

    index: int
    uuid: str
    name: str
    mig: bool = False
    minor: int | None = None
    persistence: bool | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    clock_set_mhz: int | None = None
    clock_default_mhz: int | None = None
    clock_ceiling_mhz: int | None = None
    clock_max_mhz: int | None = None
    slowdowns: tuple[str, ...] = ()

    @property
    def memory_in_use(self) -> bool:
        """Whether somebody holds memory here; False when the GPU does not say."""
        total, free = self.memory_total_bytes, self.memory_free_bytes
        return total is not None and free is not None and free < LEAST_FREE_SHARE * total

    @property
    def memory_text(self) -> str:
        """Figures for a person, in GiB."""
        return f"{(self.memory_free_bytes or 0) / 2**30:.1f} of {(self.memory_total_bytes or 0) / 2**30:.1f} GiB free"


def read_gpus() -> tuple[Gpu, ...]:
    """Every GPU of this machine in PCI bus order. Raises GpuUnavailable."""
    with _nvml() as nvml:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        return tuple(_read_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))


def compute_processes(uuid: str) -> tuple[GpuProcess, ...] | None:
    """Processes computing on one GPU right now; None where NVML may not list them. Raises GpuUnavailable."""
    with _nvml() as nvml:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        try:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError as problem:
            if getattr(problem, "value", None) in {getattr(nvml, name) for name in CANNOT_TELL}:
                return None
            raise
        return tuple(GpuProcess(int(entry.pid), _process_name(nvml, int(entry.pid))) for entry in running)


def read_driver() -> Driver | None:
    """The driver of this machine, None without one."""
    try:
        with _nvml() as nvml:
            number = _answer(nvml, "nvmlSystemGetCudaDriverVersion")  # 12040 is CUDA 12.4
            cuda = None if number is None else (int(number) // 1000, int(number) % 1000 // 10)
            return Driver(_text(nvml.nvmlSystemGetDriverVersion()), cuda)
    except GpuUnavailable:
        return None


def read_states() -> tuple[GpuState, ...]:
    """Every GPU of this machine in PCI bus order as it stands now; none without a driver."""
    try:
        with _nvml() as nvml:
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return tuple(_read_state(nvml, index, handle) for index, handle in enumerate(handles))
    except GpuUnavailable:
        return ()


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


def _read_state(nvml: Any, index: int, handle: Any) -> GpuState:
    memory = _answer(nvml, "nvmlDeviceGetMemoryInfo", handle)
    persistence = _answer(nvml, "nvmlDeviceGetPersistenceMode", handle)
    clock = nvml.NVML_CLOCK_SM
    return GpuState(
        index,
        _text(nvml.nvmlDeviceGetUUID(handle)),
        _text(nvml.nvmlDeviceGetName(handle)),
        mig=_mig_enabled(nvml, handle),
        minor=_answer(nvml, "nvmlDeviceGetMinorNumber", handle),
        persistence=None if persistence is None else persistence == nvml.NVML_FEATURE_ENABLED,
        memory_total_bytes=None if memory is None else int(memory.total),
        memory_free_bytes=None if memory is None else int(memory.free),
        power_limit_w=_watts(_answer(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)),
        power_default_w=_watts(_answer(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", handle)),
        clock_set_mhz=_answer(nvml, "nvmlDeviceGetApplicationsClock", handle, clock),
        clock_default_mhz=_answer(nvml, "nvmlDeviceGetDefaultApplicationsClock", handle, clock),
        clock_ceiling_mhz=_answer(nvml, "nvmlDeviceGetMaxCustomerBoostClock", handle, clock),
        clock_max_mhz=_answer(nvml, "nvmlDeviceGetMaxClockInfo", handle, clock),
        slowdowns=_slowdowns(nvml, handle),
    )


def _answer(nvml: Any, name: str, *arguments: Any) -> Any:
    """What NVML says; None where this GPU, driver or binding does not know the question."""
    try:
        return getattr(nvml, name)(*arguments)
    except (nvml.NVMLError, AttributeError, ValueError):
        return None


def _slowdowns(nvml: Any, handle: Any) -> tuple[str, ...]:
    """Older drivers and bindings say Throttle where newer ones say Event; the bits are the same."""
    mask = _answer(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if mask is None:
        mask = _answer(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
    return tuple(words for name, words in SLOWDOWNS if mask & getattr(nvml, f"nvmlClocksThrottleReason{name}", 0))


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


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
