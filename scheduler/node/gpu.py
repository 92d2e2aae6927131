"""GPUs of this machine as NVML describes them, and what a run on one needs besides: compiler, headers, device files.

The scheduler's only module that imports pynvml. Does not touch CUDA and changes no setting. A machine without a driver
has no GPUs and gives the reason.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.node.cores import read_local_cpus

MPS_PROCESS_PREFIX = "nvidia-cuda-mps"  # control daemon and server; /proc/<pid>/comm cuts names at 15 characters
CPU_MASK_BITS = 64
LEAST_FREE_SHARE = 0.9  # of an unused GPU's memory; drivers and desktops keep some for themselves
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
UNSEEN_PROCESSES = "NVML may not list processes here: whether another process uses this GPU is unknown"
NO_DEVICE_FILES_NEEDED = ("dxg", "nvmap")  # WSL and Tegra reach their GPUs through these instead


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

    def __str__(self) -> str:
        return f"{self.pid} ({self.name})"


@dataclass(frozen=True, slots=True)
class Driver:
    """The NVIDIA driver: its version, and the newest CUDA (major, minor) it runs, None where it does not report one."""

    version: str
    cuda: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class GpuState:
    """What limits one GPU at present. Memory in bytes, power in W, clocks of the SMs in MHz.

    None: the GPU or its driver does not report it. `minor` is N of /dev/nvidiaN. `slowdowns`: reasons, in words.
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
        """Whether a process holds memory here; False where the GPU does not report it."""
        total, free = self.memory_total_bytes, self.memory_free_bytes
        return total is not None and free is not None and free < LEAST_FREE_SHARE * total

    @property
    def memory_text(self) -> str:
        """Like "60.0 of 80.0 GiB free"."""
        return f"{(self.memory_free_bytes or 0) / 2**30:.1f} of {(self.memory_total_bytes or 0) / 2**30:.1f} GiB free"


@dataclass(frozen=True, slots=True)
class Missing:
    """Something a run needs and the node does not have, and what to do about it."""

    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}"


def read_gpus() -> tuple[Gpu, ...]:
    """Every GPU of this machine in PCI bus order. Raises GpuUnavailable."""
    with _nvml() as nvml:
        driver = nvml.nvmlSystemGetDriverVersion()
        return tuple(
            Gpu(index, *_identity(nvml, handle), driver, _mig_enabled(nvml, handle), _local_cpus(nvml, handle))
            for index, handle in _handles(nvml)
        )


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
        # NVML names no process of another container, and none that has ended meanwhile.
        names = [_answer(nvml, "nvmlSystemGetProcessName", int(entry.pid)) or "unknown" for entry in running]
        return tuple(GpuProcess(int(entry.pid), name) for entry, name in zip(running, names, strict=True))


def read_driver() -> Driver | None:
    """The driver of this machine, None without one."""
    try:
        with _nvml() as nvml:
            number = _answer(nvml, "nvmlSystemGetCudaDriverVersion")  # 12040 is CUDA 12.4
            cuda = None if number is None else (int(number) // 1000, int(number) % 1000 // 10)
            return Driver(nvml.nvmlSystemGetDriverVersion(), cuda)
    except GpuUnavailable:
        return None


def read_states() -> tuple[GpuState, ...]:
    """Every GPU of this machine in PCI bus order as it is at present; none without a driver."""
    try:
        with _nvml() as nvml:
            return tuple(_read_state(nvml, index, handle) for index, handle in _handles(nvml))
    except GpuUnavailable:
        return ()


def mps_running(proc: Path = Path("/proc")) -> bool:
    """Whether an MPS daemon or server runs here: its clients share one GPU, so their budgets are not comparable."""
    for comm in proc.glob("[0-9]*/comm"):
        with suppress(OSError):  # the process ended meanwhile
            if comm.read_text().startswith(MPS_PROCESS_PREFIX):
                return True
    return False


def gpu_notes(uuid: str) -> tuple[str, ...]:
    """What is worth knowing of one GPU while no run of ours is on it."""
    states = [state for state in read_states() if state.uuid == uuid]
    unusable = unusable_device_files(state.minor for state in states if state.minor is not None)
    notes = [f"device files {one}" for one in unusable]
    notes += [f"another process holds memory of it: {state.memory_text}" for state in states if state.memory_in_use]
    with suppress(GpuUnavailable):  # a problem of the slot, reported as such
        if compute_processes(uuid) is None:
            notes.append(UNSEEN_PROCESSES)
    return tuple(notes)


def missing_toolchain(environ: Mapping[str, str]) -> tuple[Missing, ...]:
    """What Triton would miss in a run with these variables: it compiles a C file against Python.h there."""
    return tuple(one for one in (_missing_compiler(environ), _missing_headers(environ)) if one is not None)


def unusable_device_files(minors: Iterable[int], dev: Path = Path("/dev")) -> tuple[Missing, ...]:
    """Device files that are absent or that this user may not open; `minors`: N of each /dev/nvidiaN.

    A process that opens CUDA has an absent one made by nvidia-modprobe, which is setuid root. A run may gain no
    privileges (no_new_privs), so they must be there before it.
    """
    if any((dev / name).exists() for name in NO_DEVICE_FILES_NEEDED):
        return ()
    paths = [dev / name for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{minor}" for minor in minors))]
    absent = [str(path) for path in paths if not path.exists()]
    closed = [str(path) for path in paths if path.exists() and not os.access(path, os.R_OK | os.W_OK)]
    found = []
    if absent:
        hint = (
            "run `sudo nvidia-modprobe -u -c=0` after every boot (nvidia-persistenced, started at boot, keeps them); "
            "in a container: start it with --gpus all"
        )
        found.append(Missing(f"not there: {', '.join(absent)}; a run may not make them itself", hint))
    if closed:
        hint = "add this user to the group that owns them (ls -l shows it), then log in again"
        found.append(Missing(f"this user may not open {', '.join(closed)}", hint))
    return tuple(found)


def _missing_compiler(environ: Mapping[str, str]) -> Missing | None:
    """Triton takes $CC, else gcc, else clang."""
    path, chosen = environ.get("PATH"), environ.get("CC")
    if chosen is not None:
        hint = "unset CC, or set it to the path of gcc or clang, without options"
        return None if shutil.which(chosen, path=path) else Missing(f"the C compiler CC={chosen} is not there", hint)
    if any(shutil.which(name, path=path) for name in ("gcc", "clang")):
        return None
    if shutil.which("cc", path=path):
        return Missing("there is no gcc or clang, only cc, which Triton does not look for", "export CC=cc")
    return Missing("there is no C compiler, and Triton compiles in every run", "apt install gcc python3-dev")


def _missing_headers(environ: Mapping[str, str]) -> Missing | None:
    """Triton asks the scheme posix_prefix where Debian's own is posix_local."""
    scheme = sysconfig.get_default_scheme()
    include = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    extra = [folder for folder in environ.get("CPATH", "").split(os.pathsep) if folder]
    if any(Path(folder, "Python.h").is_file() for folder in (include, *extra)):
        return None
    version = sysconfig.get_python_version()
    hint = f"apt install gcc python{version}-dev (python3-dev where {version} is the system's Python)"
    return Missing(f"Python's headers are missing: no Python.h in {include}", hint)


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


def _handles(nvml: Any) -> list[tuple[int, Any]]:
    return [(index, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount())]


def _identity(nvml: Any, handle: Any) -> tuple[str, str]:
    return nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)


def _answer(nvml: Any, name: str, *arguments: Any) -> Any:
    """NVML's answer; None where this GPU, driver or binding does not know the question."""
    try:
        return getattr(nvml, name)(*arguments)
    except (nvml.NVMLError, AttributeError, ValueError):
        return None


def _read_state(nvml: Any, index: int, handle: Any) -> GpuState:
    clock = nvml.NVML_CLOCK_SM
    memory, persistence, limit_mw, default_mw = (
        _answer(nvml, f"nvmlDeviceGet{name}", handle)
        for name in ("MemoryInfo", "PersistenceMode", "EnforcedPowerLimit", "PowerManagementDefaultLimit")
    )
    return GpuState(
        index,
        *_identity(nvml, handle),
        mig=_mig_enabled(nvml, handle),
        minor=_answer(nvml, "nvmlDeviceGetMinorNumber", handle),
        persistence=None if persistence is None else persistence == nvml.NVML_FEATURE_ENABLED,
        memory_total_bytes=None if memory is None else int(memory.total),
        memory_free_bytes=None if memory is None else int(memory.free),
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        power_default_w=None if default_mw is None else default_mw / 1000,
        clock_set_mhz=_answer(nvml, "nvmlDeviceGetApplicationsClock", handle, clock),
        clock_default_mhz=_answer(nvml, "nvmlDeviceGetDefaultApplicationsClock", handle, clock),
        clock_ceiling_mhz=_answer(nvml, "nvmlDeviceGetMaxCustomerBoostClock", handle, clock),
        clock_max_mhz=_answer(nvml, "nvmlDeviceGetMaxClockInfo", handle, clock),
        slowdowns=_slowdowns(nvml, handle),
    )


def _slowdowns(nvml: Any, handle: Any) -> tuple[str, ...]:
    """Older drivers and bindings have Throttle where newer ones have Event in the name; the bits are the same."""
    mask = _answer(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if mask is None:
        mask = _answer(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
    return tuple(words for name, words in SLOWDOWNS if mask & getattr(nvml, f"nvmlClocksThrottleReason{name}", 0))


def _mig_enabled(nvml: Any, handle: Any) -> bool:
    """GPUs that cannot do MIG refuse the question."""
    current, _pending = _answer(nvml, "nvmlDeviceGetMigMode", handle) or (None, None)
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _local_cpus(nvml: Any, handle: Any) -> tuple[int, ...]:
    """Cores of the GPU's NUMA node, as the kernel says or the driver; empty where neither does (virtual machines)."""
    if (pci := _answer(nvml, "nvmlDeviceGetPciInfo", handle)) is not None:
        bus_id = pci.busId.decode() if isinstance(pci.busId, bytes) else str(pci.busId)
        if local := read_local_cpus(bus_id):
            return local
    try:  # a list like "0-127"
        possible = Path("/sys/devices/system/cpu/possible").read_text()
        count = int(possible.strip().replace(",", "-").rsplit("-", 1)[-1]) + 1
    except (OSError, ValueError):
        count = CPU_MASK_BITS
    words = (max(count, 1) + CPU_MASK_BITS - 1) // CPU_MASK_BITS
    answer = _answer(nvml, "nvmlDeviceGetCpuAffinity", handle, words) or ()
    mask = sum(int(value) << word * CPU_MASK_BITS for word, value in enumerate(answer))
    return tuple(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)
