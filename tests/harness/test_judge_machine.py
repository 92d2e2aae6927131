"""What a result says of the machine: from files as the kernel writes them, and from an NVML."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.judge.clock import SpeedRange
from harness.judge.machine import GpuWatch, MachineWatch
from harness.judge.monitor import CandidateMonitor
from harness.judge.report import JudgeVerdict


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


@pytest.mark.parametrize("missing", ["stat", "loadavg"])
def test_what_one_file_says_does_not_hang_on_the_other(tmp_path: Path, missing: str) -> None:
    """One that cannot be read, and comes only at the second look."""
    watch = MachineWatch((1,), None, tmp_path)
    for look, stolen in enumerate((5, 10, 25)):
        write_proc(tmp_path, stolen, idle=3 * stolen, running=4)
        if look == 0 or missing == "loadavg":
            (tmp_path / missing).unlink()
        watch.look()
    shown = watch.shown(None, None)
    assert shown["steal"] == 0.25 and shown["load"] == (2.0 if missing == "stat" else None)


def test_a_core_that_was_switched_off_meanwhile_has_no_negative_share(tmp_path: Path) -> None:
    watch = MachineWatch((1,), None, tmp_path)
    for stolen, idle in ((500, 100), (3, 700)):
        write_proc(tmp_path, stolen, idle=idle)
        watch.look()
    assert watch.shown(None, None)["steal"] is None


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


def slowed(masks: list[int], name: str = "nvmlDeviceGetCurrentClocksThrottleReasons") -> MachineWatch:
    """After one look for each mask; one more is asked for when the watch begins."""
    answers = iter([0x1, *masks])
    gpu = GpuWatch("GPU-1", FakeNvml(**{name: lambda handle: next(answers)}))
    for second in range(len(masks)):
        gpu.look(100.0 + second)
    return MachineWatch((), gpu)


@pytest.mark.parametrize("bit", [0x08, 0x20, 0x40, 0x80])
@pytest.mark.parametrize(
    ("looks", "of_them", "is_slowed"), [(20, 3, True), (20, 2, False), (9, 9, False), (20, 0, False)]
)
def test_a_gpu_that_heat_or_power_supply_slowed_for_a_tenth_makes_the_score_suspect(
    bit: int, looks: int, of_them: int, is_slowed: bool
) -> None:
    watch = slowed([bit | 0x4] * of_them + [0x4] * (looks - of_them))
    assert bool(watch.slowdown()) is is_slowed
    if is_slowed:
        assert "15% of the training" in watch.slowdown() and "power cap" not in watch.slowdown()


def test_the_power_cap_and_clocks_set_by_hand_slow_no_gpu_down() -> None:
    assert not slowed([0x4 | 0x2 | 0x10 | 0x100 | 0x1] * 50).slowdown()
    assert not MachineWatch((), None).slowdown() and not slowed([]).slowdown()


def test_energy_and_clock_events_are_those_between_beginning_and_end() -> None:
    joules, masks = iter([5_000_000, 5_234_560]), iter([0x1, 0x40, 0x4])
    nvml = FakeNvml(
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(joules),
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: next(masks),
    )
    shown = gpu_of(nvml, looks=1)
    assert shown["energy_j"] == 234.6 and shown["throttled_share"] == 1.0
    assert shown["clock_events"] == {"before": [], "after": ["power cap"]}


@pytest.mark.parametrize("counter", [refuse, lambda handle: next(iter([]))])
def test_a_driver_without_a_counter_says_nothing_of_energy(counter: Any) -> None:
    assert gpu_of(FakeNvml(nvmlDeviceGetTotalEnergyConsumption=counter))["energy_j"] is None
    backwards = iter([9, 8])  # the driver was loaded anew
    assert gpu_of(FakeNvml(nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(backwards)))["energy_j"] is None


@pytest.mark.parametrize(
    ("status", "expected"), [("ok", "suspect: throttled"), ("crash", "crash"), ("suspect: x",) * 2]
)
def test_only_a_score_that_nothing_else_is_said_of_becomes_suspect(status: str, expected: str) -> None:
    monitor = object.__new__(CandidateMonitor)
    monitor._until_verdict = lambda: JudgeVerdict(status)  # type: ignore[method-assign]
    monitor._session = SimpleNamespace(stop_clock=lambda: None)  # type: ignore[assignment]
    monitor._candidate = SimpleNamespace(cpu=SimpleNamespace(hidden=lambda: 0))  # type: ignore[assignment]
    monitor._contract = SimpleNamespace(budget=SimpleNamespace(counts_cpu=False))  # type: ignore[assignment]
    monitor._machine = slowed([0x40] * 20)
    assert monitor.watch().status == expected


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
