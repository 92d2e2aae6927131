"""What a result says of the machine: from files as the kernel writes them, and from an NVML."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.judge.clock import SpeedRange
from harness.judge.machine import GpuWatch, MachineWatch


def write_proc(folder: Path, steal: int, idle: int = 0, running: int = 2) -> None:
    """Two cores of which the second is stolen from."""
    (folder / "stat").write_text(
        f"cpu  200 0 0 {100 + idle} 0 0 0 {steal} 0 0\n"
        f"cpu0 100 0 0 50 0 0 0 0 0 0\n"
        f"cpu1 100 0 0 {50 + idle} 0 0 0 {steal} 7 7\n"
        "intr 1 2 3\n"
    )
    (folder / "loadavg").write_text(f"1.00 1.00 1.00 {running}/300 4711\n")


@pytest.mark.parametrize(("cpus", "steal"), [((1,), 0.25), ((0,), None), ((), 0.25)])
def test_stolen_time_is_that_of_the_runs_cores(tmp_path: Path, cpus: tuple[int, ...], steal: float | None) -> None:
    watch = MachineWatch(cpus, None, tmp_path)
    for stolen in (5, 10, 25):
        write_proc(tmp_path, stolen, idle=3 * stolen)
        watch.look()
    assert watch.shown(None, None)["steal"] == steal


def test_the_load_is_without_the_run_itself(tmp_path: Path) -> None:
    watch = MachineWatch((), None, tmp_path)
    for running in (1, 2, 4, 6):
        write_proc(tmp_path, 0, running=running)
        watch.look()
    assert watch.shown(None, None)["load"] == 1.5


@pytest.mark.parametrize("text", [None, "", "nonsense", "cpu x y z\n"])
def test_a_machine_that_says_nothing_is_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        for name in ("stat", "loadavg"):
            (tmp_path / name).write_text(text)
    watch = MachineWatch((0,), None, tmp_path)
    watch.look()
    watch.look()
    shown = watch.shown(None, None)
    assert (shown["steal"], shown["load"], shown["speed"], shown["gpu"], shown["throttled"]) == (None,) * 4 + ([],)


def test_the_speed_is_shown_with_what_it_is_a_share_of() -> None:
    shown = MachineWatch((), None).shown(SpeedRange(0.91234, 0.7, 1.0), "abcd1234")
    assert (shown["speed"], shown["speed_low"], shown["speed_high"]) == (0.9123, 0.7, 1.0)
    assert shown["calibration"] == "abcd1234"


class FakeNvml(SimpleNamespace):
    """NVML of one GPU; `asked` counts rounds of questions."""

    def __init__(self, reasons: int = 0, **answers: Any) -> None:
        self.asked = 0
        super().__init__(
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByUUID=lambda uuid: ("uuid", uuid),
            nvmlDeviceGetHandleByIndex=lambda index: ("index", index),
            nvmlDeviceGetClockInfo=lambda handle, kind: 1800 + self._count() if kind == 1 else 2600,
            nvmlDeviceGetPowerUsage=lambda handle: 650_500,
            nvmlDeviceGetTemperature=lambda handle, sensor: 61,
            nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: reasons,
        )
        for name, answer in answers.items():
            setattr(self, name, answer)

    def _count(self) -> int:
        self.asked += 1
        return self.asked


def refuse(*_: object) -> None:
    raise RuntimeError("NVML_ERROR_NOT_SUPPORTED")


def gpu_of(nvml: Any, looks: int = 3, visible: str = "GPU-1") -> dict[str, Any]:
    gpu = GpuWatch(visible, nvml)
    for second in range(looks):
        gpu.look(100.0 + second)
        gpu.look(100.4 + second)
    return MachineWatch((), gpu).shown(None, None)


def test_a_gpu_is_asked_once_a_second() -> None:
    nvml = FakeNvml()
    shown = gpu_of(nvml)
    assert nvml.asked == 3
    assert shown["gpu"] == {
        "sm_mhz": [1802.0, 1801.0, 1803.0],
        "memory_mhz": [2600.0, 2600.0, 2600.0],
        "power_w": [650.5, 650.5, 650.5],
        "temperature_c": [61.0, 61.0, 61.0],
    }
    assert shown["throttled"] == []


@pytest.mark.parametrize(
    ("reasons", "names"),
    [(0x1 | 0x2, []), (0x4, ["power cap"]), (0x20 | 0x80 | 0x1, ["power brake", "software thermal"])],
)
def test_idle_and_clocks_set_by_hand_are_no_throttling(reasons: int, names: list[str]) -> None:
    assert gpu_of(FakeNvml(reasons))["throttled"] == names
    newer = FakeNvml(0, nvmlDeviceGetCurrentClocksEventReasons=lambda handle: reasons)
    assert gpu_of(newer)["throttled"] == names


def test_what_a_driver_does_not_report_is_left_out() -> None:
    shown = gpu_of(FakeNvml(nvmlDeviceGetPowerUsage=refuse, nvmlDeviceGetCurrentClocksThrottleReasons=refuse))
    assert set(shown["gpu"]) == {"sm_mhz", "memory_mhz", "temperature_c"} and shown["throttled"] == []


@pytest.mark.parametrize("nvml", [FakeNvml(nvmlInit=refuse), FakeNvml(nvmlDeviceGetHandleByUUID=refuse), object()])
def test_a_machine_without_nvml_has_no_gpu_to_show(nvml: Any) -> None:
    shown = gpu_of(nvml)
    assert shown["gpu"] is None and shown["throttled"] == []


def test_a_gpu_is_found_by_its_index_too() -> None:
    assert GpuWatch("3", FakeNvml())._handle == ("index", 3)
    assert GpuWatch("auto", FakeNvml())._handle is None
