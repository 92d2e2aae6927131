"""Reading GPUs through a stand-in for pynvml, and a GPU slot that somebody else computes on. No GPU is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from scheduler.adapters.gpu import Gpu, GpuProcess, GpuUnavailable, compute_processes, mps_running, read_gpus
from scheduler.adapters.machine import Machine
from scheduler.adapters.node import SlotSupervisor
from scheduler.adapters.slot_layout import lay_out
from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Done
from tests.scheduler.fake_judge import CONTRACT_JSON
from tests.scheduler.pool_contract import wait_until
from tests.scheduler.supervisor_pool import FAKES, LAB_ID, fake_order

NODE = Machine("boot-1", "processor", (0, 1, 2, 3), 4, (Gpu(0, "GPU-0000", "H100", "570.1"),))


class FakeNvmlError(Exception):
    pass


def fake_nvml(**changes: Any) -> SimpleNamespace:
    """Two GPUs, the second with MIG on; GPUs answer bytes, as older drivers do."""

    def refuse(*_: Any) -> Any:
        raise FakeNvmlError("Not Supported")

    answers: dict[str, Any] = {
        "NVMLError": FakeNvmlError,
        "NVML_DEVICE_MIG_ENABLE": 1,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: b"570.1",
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: int(uuid[-1]),
        "nvmlDeviceGetUUID": lambda handle: f"GPU-000{handle}".encode(),
        "nvmlDeviceGetName": lambda handle: b"H100",
        "nvmlDeviceGetMigMode": lambda handle: (handle, handle),
        "nvmlDeviceGetCpuAffinity": lambda handle, words: [0b1100] + [0] * (words - 1),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=42)] * handle,
        "nvmlSystemGetProcessName": refuse,
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
    refuse = fake_nvml().nvmlSystemGetProcessName
    use_nvml(fake_nvml(nvmlDeviceGetMigMode=refuse, nvmlDeviceGetCpuAffinity=refuse))
    assert [(gpu.mig, gpu.local_cpus) for gpu in read_gpus()] == [(False, ()), (False, ())]


def test_who_computes_on_a_gpu(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    use_nvml(fake_nvml())
    assert compute_processes("GPU-0000") == ()
    assert compute_processes("GPU-0001") == (GpuProcess(42, "unknown"),)


def test_without_a_driver_there_is_a_reason(use_nvml: Callable[[SimpleNamespace], None]) -> None:
    use_nvml(fake_nvml(nvmlInit=fake_nvml().nvmlSystemGetProcessName))
    with pytest.raises(GpuUnavailable, match="Not Supported"):
        read_gpus()


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
    """A supervisor of one GPU; `foreign` is who else computes there."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scheduler.adapters.node.FOREIGN_PATIENCE_S", 0.0)
        self.foreign: tuple[GpuProcess, ...] = ()
        self.asked: list[str] = []
        self.supervisor = SlotSupervisor(lay_out(NODE, "node", "cuda")[0], root, FAKES, gpu_processes=self.processes)

    def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        self.asked.append(uuid)
        return self.foreign


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
    assert "GPU 0 is in use by process 42 (blender)" in slot.supervisor.probe(CONTRACT_JSON).problem
    with pytest.raises(PoolProblem, match="blender"):
        slot.supervisor.start(fake_order("r0001", "score 1.9"))
    slot.foreign = ()
    assert slot.supervisor.probe(CONTRACT_JSON).problem == ""


def test_a_process_that_is_just_leaving_does_not_count(slot: GpuSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.adapters.node.FOREIGN_PATIENCE_S", 60.0)
    leaving = [(GpuProcess(42, "python"),), ()]
    slot.supervisor = SlotSupervisor(
        slot.supervisor.spec, slot.supervisor._spools.root, FAKES, gpu_processes=lambda uuid: leaving.pop(0)
    )
    assert slot.supervisor.probe(CONTRACT_JSON).problem == ""


def test_our_own_judge_is_not_foreign(slot: GpuSlot) -> None:
    slot.supervisor.start(fake_order("r0001", "hang"))
    slot.foreign = (GpuProcess(42, "python"),)
    assert slot.supervisor.probe(CONTRACT_JSON, LAB_ID).problem == ""
    slot.supervisor.close()


def test_a_gpu_that_fell_off_the_bus_breaks_its_slot(tmp_path: Path) -> None:
    def lost(uuid: str) -> tuple[GpuProcess, ...]:
        raise GpuUnavailable("NVML: GPU is lost")

    supervisor = SlotSupervisor(lay_out(NODE, "node", "cuda")[0], tmp_path, FAKES, gpu_processes=lost)
    assert supervisor.probe(CONTRACT_JSON).problem == "NVML: GPU is lost"
