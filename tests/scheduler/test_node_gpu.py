"""Reading GPUs through a stand-in for pynvml, and a GPU slot with a foreign process. No GPU is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Done
from scheduler.node import gpu, supervisor
from scheduler.node.gpu import (
    CANNOT_TELL,
    Driver,
    Gpu,
    GpuProcess,
    GpuState,
    GpuUnavailable,
    Missing,
    compute_processes,
    gpu_notes,
    missing_toolchain,
    mps_running,
    read_driver,
    read_gpus,
    read_states,
    unusable_device_files,
)
from scheduler.node.judge_process import lock_holders
from scheduler.node.machine import Machine, lay_out
from scheduler.node.supervisor import SlotSupervisor
from tests.scheduler.fake_judge import CONTRACT_JSON
from tests.scheduler.supervisor_pool import FAKES, LAB_ID, fake_order
from tests.waiting import wait_until

NODE = Machine("boot-1", "processor", (0, 1, 2, 3), 4, (Gpu(0, "GPU-0000", "H100", "570.1"),))


def refusing(code: int) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise pynvml.NVMLError(code)

    return refuse


NOT_SUPPORTED = refusing(pynvml.NVML_ERROR_NOT_SUPPORTED)
REASONS = [name for name in dir(pynvml) if name.startswith("nvmlClocksThrottleReason")]


def fake_nvml(**changes: Any) -> SimpleNamespace:
    """Two GPUs, the second with MIG on."""
    answers: dict[str, Any] = {
        "NVMLError": pynvml.NVMLError,
        **{name: getattr(pynvml, name) for name in (*CANNOT_TELL, *REASONS)},
        "NVML_DEVICE_MIG_ENABLE": 1,
        "NVML_FEATURE_ENABLED": 1,
        "NVML_CLOCK_SM": 1,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "570.1",
        "nvmlSystemGetCudaDriverVersion": lambda: 12080,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: int(uuid[-1]),
        "nvmlDeviceGetUUID": lambda handle: f"GPU-000{handle}",
        "nvmlDeviceGetName": lambda handle: "H100",
        "nvmlDeviceGetMigMode": lambda handle: (handle, handle),
        "nvmlDeviceGetCpuAffinity": lambda handle, words: [0b1100] + [0] * (words - 1),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=42)] * handle,
        "nvmlSystemGetProcessName": NOT_SUPPORTED,
        "nvmlDeviceGetMinorNumber": lambda handle: handle + 4,
        "nvmlDeviceGetPersistenceMode": lambda handle: 1,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80 << 30, free=79 << 30),
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 650_000,
        "nvmlDeviceGetPowerManagementDefaultLimit": lambda handle: 700_000,
        "nvmlDeviceGetApplicationsClock": lambda handle, clock: 1700,
        "nvmlDeviceGetDefaultApplicationsClock": lambda handle, clock: 1830,
        "nvmlDeviceGetMaxCustomerBoostClock": lambda handle, clock: 1900,
        "nvmlDeviceGetMaxClockInfo": lambda handle, clock: 1980,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: pynvml.nvmlClocksThrottleReasonSwThermalSlowdown | 1,
        "nvmlDeviceGetCurrentClocksThrottleReasons": NOT_SUPPORTED,
    }
    return SimpleNamespace(**{**answers, **changes})


@pytest.fixture
def use_nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[[SimpleNamespace], None]:
    return lambda nvml: monkeypatch.setitem(sys.modules, "pynvml", nvml)


def test_gpus_are_read_with_their_slices_and_near_cores(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    use_nvml(fake_nvml())
    one, two = read_gpus()
    assert one == Gpu(0, "GPU-0000", "H100", "570.1", mig=False, local_cpus=(2, 3))
    assert two.mig and two.uuid == "GPU-0001"


def test_a_gpu_that_knows_nothing_of_slices_has_none(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    use_nvml(fake_nvml(nvmlDeviceGetMigMode=NOT_SUPPORTED, nvmlDeviceGetCpuAffinity=NOT_SUPPORTED))
    assert [(gpu.mig, gpu.local_cpus) for gpu in read_gpus()] == [(False, ()), (False, ())]


def test_who_computes_on_a_gpu(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    use_nvml(fake_nvml())
    assert compute_processes("GPU-0000") == ()
    assert compute_processes("GPU-0001") == (GpuProcess(42, "unknown"),)


def test_without_a_driver_there_is_a_reason(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    use_nvml(fake_nvml(nvmlInit=refusing(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)))
    with pytest.raises(GpuUnavailable, match="Driver Not Loaded"):
        read_gpus()
    assert read_states() == () and read_driver() is None


@pytest.mark.parametrize("code", CANNOT_TELL)
def test_processes_that_may_not_be_listed_are_unknown(use_nvml: Callable[[SimpleNamespace], None], code: str) -> None:
    use_nvml(fake_nvml(nvmlDeviceGetComputeRunningProcesses=refusing(getattr(pynvml, code))))
    assert compute_processes("GPU-0000") is None


def test_a_lost_gpu_is_not_merely_unknown(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    use_nvml(fake_nvml(nvmlDeviceGetComputeRunningProcesses=refusing(pynvml.NVML_ERROR_GPU_IS_LOST)))
    with pytest.raises(GpuUnavailable, match="lost"):
        compute_processes("GPU-0000")


def test_the_driver_names_the_newest_cuda_it_runs(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    use_nvml(fake_nvml())
    assert read_driver() == Driver("570.1", (12, 8))
    use_nvml(fake_nvml(nvmlSystemGetCudaDriverVersion=NOT_SUPPORTED))
    assert read_driver() == Driver("570.1", None)


def test_the_state_of_a_gpu_is_read_in_units(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    use_nvml(fake_nvml())
    one, two = read_states()
    assert one == GpuState(
        0, "GPU-0000", "H100", False, 4, True, 80 << 30, 79 << 30, 650.0, 700.0, 1700, 1830, 1900, 1980,
        ("it is too hot",),
    )  # fmt: skip
    assert two.mig and not one.memory_in_use


@pytest.mark.parametrize("refuse", [NOT_SUPPORTED, refusing(pynvml.NVML_ERROR_UNKNOWN), None])
def test_questions_a_gpu_driver_or_binding_does_not_know_are_unknown(
    use_nvml: Callable[[SimpleNamespace], None], refuse: Callable[..., Any] | None
) -> None:
    known = ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetName")
    nvml = fake_nvml()
    for name in [name for name in vars(nvml) if name.startswith("nvmlDeviceGet") and name not in known]:
        if refuse is not None:
            setattr(nvml, name, refuse)
        elif name != "nvmlDeviceGetMigMode":
            delattr(nvml, name)
    use_nvml(nvml)
    assert read_states()[0] == GpuState(0, "GPU-0000", "H100")
    assert not read_states()[0].memory_in_use


def test_older_drivers_say_throttle_for_event(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    mask = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwSlowdown
    nvml = fake_nvml(nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: mask)
    del nvml.nvmlDeviceGetCurrentClocksEventReasons
    use_nvml(nvml)
    assert read_states()[0].slowdowns == ("it is far too hot", "heat or power supply force it to")


def test_the_real_pynvml_has_every_name_we_use() -> None:
    names = set(vars(fake_nvml()))
    assert {name for name in names if not hasattr(pynvml, name)} == set()


def test_an_mps_daemon_is_seen(tmp_path: Path) -> None:
    for pid, command in ((1, "systemd"), (77, "python")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{command}\n")
    assert not mps_running(tmp_path)
    (tmp_path / "77" / "comm").write_text("nvidia-cuda-mps\n")
    assert mps_running(tmp_path)


class GpuSlot:
    """A supervisor of one GPU; `foreign`: other processes that compute there, `missing`: of the toolchain."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.foreign: tuple[GpuProcess, ...] | None = ()
        self.missing: tuple[Missing, ...] = ()
        self.supervisor = SlotSupervisor(lay_out(NODE, "node", "cuda")[0], root, FAKES)
        readers = {
            "FOREIGN_WAIT_S": 0.0,
            "compute_processes": lambda uuid: self.foreign,
            "missing_toolchain": lambda environ: self.missing,
            "gpu_notes": lambda uuid: (f"a note on {uuid}",),
        }
        for name, reader in readers.items():
            monkeypatch.setattr(supervisor, name, reader)


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuSlot:
    return GpuSlot(tmp_path / "spool", monkeypatch)


def test_a_judge_sees_its_gpu_alone_by_uuid(slot: GpuSlot, tmp_path: Path) -> None:
    slot.supervisor.start(fake_order("r0001", "dump\nscore 1.9"))
    wait_until(lambda: isinstance(slot.supervisor.poll(LAB_ID)[0], Done))
    facts = json.loads((tmp_path / "spool" / LAB_ID / "r0001.1" / "out" / "facts.json").read_text())
    assert facts["environ"]["CUDA_VISIBLE_DEVICES"] == "GPU-0000"
    assert facts["environ"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    arguments = facts["argv"]
    assert arguments[arguments.index("--device") + 1] == "GPU-0000"
    assert arguments[arguments.index("--cpus") + 1] == "0,1,2,3"
    assert arguments[arguments.index("--lock") + 1].endswith("gpu-GPU-0000.lock")


def test_a_foreign_process_breaks_the_slot_and_is_left_alone(slot: GpuSlot) -> None:
    slot.foreign = (GpuProcess(42, "blender"),)
    assert slot.supervisor.probe(CONTRACT_JSON).problem == "dirty: GPU 0 is in use by process 42 (blender)"
    with pytest.raises(PoolProblem, match="blender"):
        slot.supervisor.start(fake_order("r0001", "score 1.9"))
    slot.foreign = ()
    assert slot.supervisor.probe(CONTRACT_JSON).problem == ""


def test_a_lock_that_no_known_run_holds_is_said_with_its_holder_and_is_waited_for(slot: GpuSlot) -> None:
    slot.supervisor.start(fake_order("r0001", "score 1.9"))
    wait_until(lambda: isinstance(slot.supervisor.poll(LAB_ID)[0], Done))
    path = slot.supervisor._lock()
    holding = f"import fcntl, sys; f = open({str(path)!r}, 'a'); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdin and holder.stdout.readline()
        said = slot.supervisor.probe(CONTRACT_JSON).problem
        assert said.startswith("dirty: its lock ") and f" {holder.pid} (python" in said
        with pytest.raises(PoolProblem, match=str(holder.pid)):
            slot.supervisor.start(fake_order("r0002", "score 1.9"))
        holder.stdin.close()
    assert slot.supervisor.probe(CONTRACT_JSON).problem == "" and lock_holders(path) == ()
    assert lock_holders(path.with_name("none")) == ()


def test_a_process_that_is_just_leaving_does_not_count(slot: GpuSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FOREIGN_WAIT_S", 60.0)
    leaving = [(GpuProcess(42, "python"),), ()]
    monkeypatch.setattr(supervisor, "compute_processes", lambda uuid: leaving.pop(0))
    assert slot.supervisor.probe(CONTRACT_JSON).problem == ""


def test_our_own_judge_is_not_foreign(slot: GpuSlot) -> None:
    slot.supervisor.start(fake_order("r0001", "hang"))
    slot.foreign = (GpuProcess(42, "python"),)
    assert slot.supervisor.probe(CONTRACT_JSON, LAB_ID).problem == ""
    slot.supervisor.close()


def test_a_gpu_that_fell_off_the_bus_breaks_its_slot(slot: GpuSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(uuid: str) -> tuple[GpuProcess, ...]:
        raise GpuUnavailable("NVML: GPU is lost")

    monkeypatch.setattr(supervisor, "compute_processes", lost)
    assert slot.supervisor.probe(CONTRACT_JSON).problem == "NVML: GPU is lost"


def test_a_gpu_whose_processes_may_not_be_listed_gets_its_runs(slot: GpuSlot) -> None:
    slot.foreign = None
    assert slot.supervisor.probe(CONTRACT_JSON).problem == ""
    assert slot.supervisor.start(fake_order("r0001", "score 1.9"))
    wait_until(lambda: isinstance(slot.supervisor.poll(LAB_ID)[0], Done))


def test_a_node_without_a_compiler_takes_no_run(slot: GpuSlot) -> None:
    slot.missing = (Missing("there is no C compiler", "apt install gcc"),)
    assert slot.supervisor.probe(CONTRACT_JSON).problem == "there is no C compiler; apt install gcc"
    with pytest.raises(PoolProblem, match="no C compiler"):
        slot.supervisor.start(fake_order("r0001", "score 1.9"))


def test_notes_are_of_an_idle_gpu(slot: GpuSlot) -> None:
    assert slot.supervisor.probe(CONTRACT_JSON).notes == ("a note on GPU-0000",)
    slot.supervisor.start(fake_order("r0001", "hang"))
    assert slot.supervisor.probe(CONTRACT_JSON, LAB_ID).notes == ()
    slot.supervisor.close()


def test_what_a_slot_carries_along(
    use_nvml: Callable[[SimpleNamespace], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(gpu, "unusable_device_files", lambda minors: asked.append(list(minors)) or ())
    use_nvml(fake_nvml())
    assert gpu_notes("GPU-0001") == () and asked == [[5]]
    use_nvml(
        fake_nvml(
            nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80 << 30, free=20 << 30),
            nvmlDeviceGetComputeRunningProcesses=NOT_SUPPORTED,
        )
    )
    memory, processes = gpu_notes("GPU-0000")
    assert "20.0 of 80.0 GiB free" in memory and "may not list processes" in processes


@pytest.mark.parametrize(
    ("here", "environ", "words"),
    [
        (["gcc"], {}, ""),
        (["clang"], {}, ""),
        (["own-cc"], {"CC": "own-cc"}, ""),
        ([], {}, "no C compiler"),
        (["cc"], {}, "only cc"),
        (["gcc"], {"CC": "icc"}, "CC=icc is not there"),
    ],
)
def test_a_compiler_is_looked_for_as_triton_does(
    tmp_path: Path, here: list[str], environ: dict[str, str], words: str
) -> None:
    for name in here:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "Python.h").write_text("")
    found = missing_toolchain({"PATH": str(tmp_path), "CPATH": str(tmp_path), **environ})
    assert [words in missing.message for missing in found] == [True] * bool(words)


def test_headers_of_the_running_python_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get_path(name: str, scheme: str) -> str:
        asked.append(scheme)
        return str(tmp_path)

    monkeypatch.setattr(gpu.sysconfig, "get_path", get_path)
    monkeypatch.setattr(gpu.sysconfig, "get_default_scheme", lambda: "posix_local")
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    (missing,) = missing_toolchain({"PATH": str(tmp_path)})
    assert "Python.h" in missing.message and "apt install" in missing.hint and asked == ["posix_prefix"]
    (tmp_path / "Python.h").write_text("")
    assert missing_toolchain({"PATH": str(tmp_path)}) == ()


def test_device_files_must_be_there_and_open_to_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidiactl", "nvidia3"):
        (tmp_path / name).write_text("")
    (absent,) = unusable_device_files([3], tmp_path)
    assert "nvidia-uvm" in absent.message and "nvidiactl" not in absent.message and "nvidia-modprobe" in absent.hint
    (tmp_path / "nvidia-uvm").write_text("")
    assert unusable_device_files([3], tmp_path) == ()
    monkeypatch.setattr(gpu.os, "access", lambda path, mode: path.name != "nvidia3")
    (closed,) = unusable_device_files([3], tmp_path)
    assert "may not open" in closed.message and "nvidia3" in closed.message


def test_where_gpus_are_reached_otherwise_no_device_files_are_missed(tmp_path: Path) -> None:
    assert unusable_device_files([0], tmp_path)
    (tmp_path / "dxg").write_text("")
    assert unusable_device_files([0], tmp_path) == ()
