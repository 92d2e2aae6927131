"""What the doctor reports of a GPU node, decided about values: no GPU is needed, and no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from harness.contract import Contract, load_contract
from harness.gpu_record import GpuRecord
from scheduler import doctor
from scheduler.cli.main import main
from scheduler.doctor import checks, cluster, gpu
from scheduler.doctor.checks import CheckResult, Grade
from scheduler.lab import ContractChoice
from scheduler.node.gpu import Driver, Gpu, GpuProcess, GpuState, Missing
from scheduler.node.machine import Machine

STANDARD = load_contract("standard")
HURRIED = ContractChoice("standard", replace(STANDARD, limits=replace(STANDARD.limits, evaluation_s=180.0)))
FREE = GpuState(0, "GPU-0", "H100", memory_total_bytes=80 << 30, memory_free_bytes=79 << 30)
REACHED = {"contained": True, "torch": "2.13.0+cu130", "cuda_build": "13.0", "cuda": True, "cuda_error": ""}
LOST = REACHED | {"cuda": False, "cuda_error": "RuntimeError: no"}
RECORD = {
    "device": "H100", "torch": "2.13.0+cu130", "driver": "580.1", "attention": "fa3",
    "attention_ms": {"flex": 2.5, "fa3": 1.25}, "attention_refused": {}, "exchange": "cuda-ipc",
    "exchange_gb_per_s": 90.0, "exchange_refused": {},
}  # fmt: skip
HERE = {"torch": "2.13.0", "driver": "580.1"}


def record_results(**changes: Any) -> dict[str, CheckResult]:
    found = gpu.check_record(HURRIED, RECORD | changes, HERE)
    return {one.subject: one for one in found}


# --- driver, torch, compiler, device files


@pytest.mark.parametrize(
    ("capabilities", "driver", "grade", "words"),
    [
        (REACHED, Driver("580.1", (13, 0)), "ok", "with CUDA 13.0, driver 580.1"),
        (REACHED, None, "ok", "with CUDA 13.0"),
        (REACHED | {"cuda_build": "12.8"}, Driver("525.1", (12, 0)), "ok", "12.8"),  # minor version compatibility
        (REACHED, Driver("550.1", (12, 4)), "note", "cuda-compat"),
        (LOST, Driver("550.1", (12, 4)), "problem", "built for CUDA 13.0, driver 550.1 runs CUDA 12.4 at most"),
        (LOST, Driver("580.1", (13, 0)), "problem", "reaches no GPU: RuntimeError: no"),
        (LOST, Driver("580.1", None), "problem", "reaches no GPU"),
        (LOST, None, "problem", "reaches no GPU"),
        (LOST | {"cuda_build": ""}, Driver("580.1", (13, 0)), "problem", "a build without CUDA"),
    ],
)
def test_torch_and_the_driver_must_fit(
    capabilities: dict[str, Any], driver: Driver | None, grade: str, words: str
) -> None:
    (result,) = gpu.judge_cuda(capabilities, driver, ())
    assert result.grade == grade and words in result.message
    if grade == "problem":
        assert "580 or newer" in result.hint


def test_device_files_are_judged_by_whether_the_gpu_is_reached() -> None:
    missing = Missing("not there: /dev/nvidia-uvm", "sudo nvidia-modprobe -u -c=0")
    driver = Driver("580.1", (13, 0))
    assert list(gpu.judge_cuda(LOST, driver, (missing,)))[1:] == [
        CheckResult("device", Grade.PROBLEM, missing.message, missing.hint)
    ]
    assert list(gpu.judge_cuda(REACHED, driver, (missing,)))[1].grade is Grade.NOTE
    assert len(list(gpu.judge_cuda(LOST, None, (missing,)))) == 1  # no driver: nothing else matters


def test_what_triton_misses_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "missing_toolchain", lambda environ: (Missing("no compiler", "apt install gcc"),))
    assert [(one.grade, one.hint) for one in gpu.check_toolchain()] == [(Grade.PROBLEM, "apt install gcc")]
    monkeypatch.setattr(gpu, "missing_toolchain", lambda environ: ())
    assert [one.grade for one in gpu.check_toolchain()] == [Grade.OK]


# --- each GPU as it stands


def test_a_gpu_at_its_best_and_one_that_says_nothing_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    best = replace(
        FREE, persistence=True, power_limit_w=700.0, power_default_w=700.0, clock_set_mhz=1830,
        clock_default_mhz=1830, clock_ceiling_mhz=1980, clock_max_mhz=1980,
    )  # fmt: skip
    for state in (best, GpuState(0, "GPU-0", "H100")):
        assert [one.grade for one in gpu.check_gpus(STANDARD, (state,))] == [Grade.OK]


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ({"persistence": False}, "persistence mode is off", "nvidia-smi -pm 1"),
        ({"power_limit_w": 500.0, "power_default_w": 700.0}, "limited to 500 W, the default is 700 W", "-i 0 -pl 700"),
        ({"clock_set_mhz": 1200, "clock_default_mhz": 1830}, "application clock is 1200 MHz", "-rac"),
        ({"clock_ceiling_mhz": 1500, "clock_max_mhz": 1980}, "may reach 1500 of 1980 MHz", "-rgc"),
        ({"slowdowns": ("it is too hot",)}, "slowed down at present: it is too hot", "PERFORMANCE"),
    ],
)
def test_what_limits_a_gpu_is_a_note(change: dict[str, Any], words: str, hint: str) -> None:
    (result,) = gpu.check_gpus(STANDARD, (replace(FREE, **change),))
    assert result.grade is Grade.NOTE and result.subject == "gpu 0"
    assert words in result.message and hint in result.hint


def test_what_holds_for_several_gpus_is_said_once() -> None:
    states = [replace(FREE, index=index, persistence=index > 1) for index in range(3)]
    (result,) = gpu.check_gpus(STANDARD, tuple(states))
    assert result.subject == "gpu 0,1"


def in_use(total_gib: int, free_gib: int) -> list[tuple[Grade, str, str]]:
    state = replace(FREE, memory_total_bytes=total_gib << 30, memory_free_bytes=free_gib << 30)
    return list(gpu.judge_memory(STANDARD, state))


def test_memory_that_someone_holds_is_said_with_figures() -> None:
    assert in_use(80, 73) == []
    ((grade, message, _),) = in_use(80, 60)
    assert grade is Grade.NOTE and "60.0 of 80.0 GiB free" in message
    ((grade, message, _),) = in_use(80, 40)
    assert grade is Grade.PROBLEM and "needs about 45 GiB at DEVICE_BATCH_SIZE 128" in message


def test_a_gpu_too_small_for_the_contract_comes_with_a_batch_that_fits() -> None:
    ((grade, message, hint),) = in_use(24, 24)
    assert grade is Grade.NOTE and "it has 24 GiB" in message
    assert "contract small" in hint and "DEVICE_BATCH_SIZE 64" in hint
    assert len(in_use(24, 10)) == 2


def with_constants(**changes: Any) -> Contract:
    return replace(STANDARD, train_constants=tuple((dict(STANDARD.train_constants) | changes).items()))


def test_only_of_a_model_that_was_measured_is_the_need_known() -> None:
    assert gpu.memory_need_bytes(STANDARD) == 45 << 30
    assert gpu.memory_need_bytes(with_constants(DEVICE_BATCH_SIZE=64)) == 45 << 29
    for unknown in (with_constants(DEPTH=12), with_constants(DEVICE_BATCH_SIZE="all"), replace(STANDARD, vocab_size=9)):
        assert gpu.memory_need_bytes(unknown) is None
    assert gpu.memory_need_bytes(load_contract("cpu")) is None


def test_a_foreign_process_is_not_said_again_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    used = replace(FREE, memory_free_bytes=10 << 30)
    monkeypatch.setattr(gpu, "compute_processes", lambda uuid: (GpuProcess(7, "python"),))
    assert [one.grade for one in gpu.check_gpus(STANDARD, (used,))] == [Grade.OK]
    monkeypatch.setattr(gpu, "compute_processes", lambda uuid: None)
    assert [one.grade for one in gpu.check_gpus(STANDARD, (used,))] == [Grade.PROBLEM]


def test_a_sliced_gpu_has_a_problem_already() -> None:
    assert list(gpu.check_gpus(STANDARD, (replace(FREE, mig=True, persistence=False),))) == []


def test_gpus_of_a_node_that_differ_are_worth_a_note() -> None:
    one, two = replace(FREE, power_limit_w=700.0), replace(FREE, index=1, power_limit_w=500.0)
    (result,) = gpu.judge_alike([one, two])
    assert result.grade is Grade.NOTE and "GPU 0 700 W, GPU 1 500 W" in result.message
    (result,) = gpu.judge_alike([one, replace(two, name="A100")])
    assert "A100, H100" in result.message
    assert list(gpu.judge_alike([one, replace(two, power_limit_w=None)])) == []


# --- the record of the GPU probe


def test_a_good_record_is_fine_with_its_figures() -> None:
    found = record_results()
    assert {one.grade for one in found.values()} == {Grade.OK}
    assert "fa3 is used (fa3 1.25 ms, flex 2.50 ms)" in found["attention"].message
    assert "cuda-ipc, about 8 of 180 s" in found["exchange"].message


@pytest.mark.parametrize("record", [None, [], "fa3", 3])
def test_without_a_record_the_probe_is_asked_for(record: object) -> None:
    (result,) = gpu.check_record(ContractChoice("own.yaml", STANDARD), record, HERE)
    assert result.grade is Grade.NOTE and result.hint == "arsched prepare --contract own.yaml"


def test_a_slower_attention_kernel_comes_with_its_reasons() -> None:
    refused = {"fa3": "ImportError: no kernels", "fa2": "wants sm80"}
    result = record_results(attention="flex", attention_refused=refused)["attention"]
    assert result.grade is Grade.NOTE and "ImportError: no kernels" in result.message and "wants sm80" in result.message
    result = record_results(attention="fa2", attention_refused=refused)["attention"]
    assert result.grade is Grade.NOTE and "wants sm80" not in result.message
    assert record_results(attention="flex")["attention"].grade is Grade.OK  # the fastest of those that ran


def test_an_exchange_too_slow_for_the_contract_is_a_problem() -> None:
    found = record_results(exchange="host", exchange_gb_per_s=1.0, exchange_refused={"cuda-ipc": "sandboxed"})
    result = found["exchange"]
    assert result.grade is Grade.PROBLEM and "about 687 s here by host, its limit is 180 s" in result.message
    assert "timeout: eval" in result.message and "sandboxed" in result.message and "evaluation_s" in result.hint
    assert record_results(exchange_gb_per_s=1.0 / 1024)["exchange"].grade is Grade.PROBLEM  # by whatever way


def test_an_exchange_through_the_host_that_is_in_time_is_worth_a_note() -> None:
    found = record_results(exchange="pinned", exchange_gb_per_s=20.0, exchange_refused={"cuda-ipc": "sandboxed"})
    assert found["exchange"].grade is Grade.NOTE and "about 34 of" in found["exchange"].message
    found = record_results(exchange="host", exchange_gb_per_s=None)
    assert found["exchange"].grade is Grade.NOTE and "at an unknown rate" in found["exchange"].message


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": None, "exchange": 7},
        {"attention_ms": None, "attention_refused": ["fa3"], "exchange_refused": None, "exchange_gb_per_s": "fast"},
        {"attention_ms": {"fa3": None, "flex": "x"}, "exchange_gb_per_s": -1.0},
        {"exchange_gb_per_s": float("nan"), "torch": None, "driver": 5},
    ],
)
def test_a_damaged_record_is_not_judged_where_it_is_damaged(changes: dict[str, Any]) -> None:
    assert Grade.PROBLEM not in {one.grade for one in record_results(**changes).values()}
    assert list(gpu.check_record(HURRIED, {}, HERE)) == []


def test_a_doubtful_trial_is_a_problem() -> None:
    made = GpuRecord("H100", "2.13.0", "T2048-D128", "580.1", "fa2", doubt="attention on this GPU is not the CPU's")
    found = record_results(**asdict(made))
    assert found["gpu probe"].grade is Grade.PROBLEM and "not the CPU's" in found["gpu probe"].message
    assert "gpu probe" not in record_results(**asdict(replace(made, doubt="")))


def test_a_record_of_another_torch_or_driver_is_stale() -> None:
    assert "gpu probe" not in record_results()
    found = record_results(torch="2.11.0+cu130", driver=None)["gpu probe"]
    assert found.grade is Grade.NOTE and "torch 2.11.0+cu130, here is 2.13.0" in found.message


# --- the whole examination


@pytest.fixture
def gpu_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A node with one GPU in order, as `scheduler.node` would read it."""
    here = SimpleNamespace(states=(FREE,), torch=dict(REACHED), cache={"digest": "d" * 64, "directory": "/x"}, asked=[])
    driver = Driver("580.1", (13, 0))
    for module in (doctor, gpu):
        monkeypatch.setattr(module, "read_states", lambda: here.states)
        monkeypatch.setattr(module, "read_driver", lambda: driver)
    monkeypatch.setattr(gpu, "ask_capabilities", lambda device: here.asked.append(device) or here.torch)
    monkeypatch.setattr(gpu, "unusable_device_files", lambda minors: ())
    monkeypatch.setattr(doctor, "installed_version", lambda name: "2.13.0")
    monkeypatch.setattr(checks, "check_packages", lambda: CheckResult("packages", Grade.OK, ""))
    monkeypatch.setattr(checks, "ask_cache", lambda contract, full: here.cache)
    monkeypatch.setattr(gpu, "missing_toolchain", lambda environ: ())
    found = Machine("boot", "Test CPU", (0, 1), 2, (Gpu(0, "GPU-0", "H100", "580.1"),))
    monkeypatch.setattr(checks, "read_machine", lambda gpus: found)
    monkeypatch.setattr(checks, "compute_processes", lambda uuid: ())
    yield here


def examined(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, dict[str, str]]:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, ["doctor", "--json", "--contract", "standard", *options])
    return {one["about"]: one for one in json.loads(done.stdout)["findings"]}


def test_everything_about_a_gpu_node_is_one_value(
    gpu_here: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_here.cache["gpu"] = RECORD
    found = examined(tmp_path, monkeypatch)
    for about in ("judge", "torch", "compiler", "attention", "exchange", "gpus", "here/gpu0", "cache"):
        assert found[about]["grade"] == "ok", found[about]
    assert gpu_here.asked == ["cuda"]


def test_without_a_cache_nothing_is_said_of_the_probe(
    gpu_here: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert examined(tmp_path, monkeypatch)["gpu probe"]["grade"] == "note"
    gpu_here.cache = {"error": "not prepared", "hint": ""}
    assert "gpu probe" not in examined(tmp_path, monkeypatch)


def test_the_head_of_a_cluster_needs_no_gpu(
    gpu_here: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "check_cluster", lambda *_: iter(()))
    gpu_here.states = ()
    assert "compiler" not in examined(tmp_path, monkeypatch, "--address", "auto")
    assert gpu_here.asked == ["cpu"]
    examined(tmp_path, monkeypatch)
    assert gpu_here.asked == ["cpu", "cuda"]
