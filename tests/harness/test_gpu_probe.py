"""The trial of a GPU: a kernel that crashes, hangs or miscounts is refused, and none of it ends a preparation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import gpu_probe, gpu_record, gpu_trial
from harness.attention import sdpa
from harness.contract import Contract, load_contract
from harness.gpu_probe import Answer, decide, probe_gpus
from harness.gpu_record import read_record, record_of_this_node, record_path, shape_of, torch_version, write_record

H100 = "NVIDIA H100 80GB HBM3"
STANDARD = load_contract("standard")


def works(ms: float, error: float = 0.004) -> Answer:
    return Answer({"ms": ms, "error": error})


def broken(why: str) -> Answer:
    return Answer(None, why)


def test_the_fastest_kernel_with_right_numbers_is_used() -> None:
    kernels = decide({"fa3": broken("killed by signal 11"), "fa2": works(4.0), "flex": works(3.0), "sdpa": works(9.0)})
    assert (kernels.best, kernels.doubt) == ("flex", "")
    assert kernels.ms == {"fa2": 4.0, "flex": 3.0, "sdpa": 9.0}
    assert kernels.refused == {"fa3": "killed by signal 11"}


@pytest.mark.parametrize("error", [0.3, math.nan, math.inf])
def test_a_fast_kernel_with_wrong_numbers_is_refused(error: float) -> None:
    """Say, one whose window ends one position early."""
    kernels = decide({"fa2": works(1.0, error), "flex": works(3.0), "sdpa": works(9.0)})
    assert kernels.best == "flex" and "wrong numbers" in kernels.refused["fa2"]


def test_numbers_decide_nothing_where_the_control_itself_disagrees() -> None:
    kernels = decide({"fa2": works(1.0, math.nan), "sdpa": works(9.0, 0.9)})
    assert kernels.best == "fa2" and "sdpa 0.9" in kernels.doubt


def test_a_control_that_cannot_run_does_not_excuse_the_others() -> None:
    kernels = decide({"fa2": works(1.0, 0.5), "flex": works(3.0), "sdpa": broken("exit code 1")})
    assert kernels.best == "flex"


def test_where_every_kernel_disagrees_the_fastest_is_used_and_doubted() -> None:
    kernels = decide({"fa2": works(4.0, 0.5), "flex": works(3.0, math.nan), "sdpa": broken("cuDNN error")})
    assert kernels.best == "flex" and "fa2 0.5" in kernels.doubt and "nan" in kernels.doubt


def test_where_nothing_works_the_last_resort_is_named_and_doubted() -> None:
    kernels = decide({"fa2": broken("no C compiler"), "sdpa": broken("no C compiler")})
    assert kernels.best == "sdpa" and not kernels.ms and kernels.doubt


class Machine:
    """Answers in place of child processes. `rates` of its exchanges, best first; without any, a reason."""

    def __init__(
        self, names: list[str], answers: Callable[[str], Answer], rates: dict[str, float] | None = None
    ) -> None:
        self.gpus = [[name, [9, 0] if "H100" in name else [7, 5], f"GPU-{i}"] for i, name in enumerate(names)]
        self.rates = {"cuda-ipc": 210.5, "host": 1.1} if rates is None else rates
        self.answers, self.asked = answers, []  # type: ignore[var-annotated]

    def exchanges(self, contract: Contract, uuid: str) -> tuple[dict[str, float], dict[str, str]]:
        return self.rates, {} if self.rates else {"cuda-ipc": "not allowed here"}

    def ask(self, arguments: list[str], gpu: str, limit_s: float) -> Answer:
        if arguments[0] == "-c":
            return Answer({"gpus": self.gpus})
        what = " ".join(arguments[1:3])
        self.asked.append((what, gpu))
        return self.answers(what)


def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: Machine, driver: str | None = "580.65") -> None:
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path))
    monkeypatch.setattr(gpu_probe, "_asker", lambda scratch, contract: machine.ask)
    monkeypatch.setattr(gpu_probe, "measure_exchanges", machine.exchanges)
    monkeypatch.setattr(gpu_probe, "driver_version", lambda: driver)


def probe(contract: Contract = STANDARD, **options: Any) -> tuple[Any, list[str]]:
    said: list[str] = []
    return probe_gpus(contract, said.append, **options), said


def good(what: str) -> Answer:
    return works({"fa2": 4.0, "flex": 3.0}.get(what.split()[-1], 9.0))


def test_one_trial_for_each_model_and_a_record_that_is_read_back(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    machine = Machine([H100, H100, "NVIDIA T4"], good)
    on(monkeypatch, tmp_path, machine)
    records, said = probe()
    assert [record.device for record in records] == [H100, "NVIDIA T4"]
    assert {gpu for what, gpu in machine.asked} == {"GPU-0", "GPU-2"}
    assert [what.split()[-1] for what, gpu in machine.asked if gpu == "GPU-2" and "trial" in what] == ["sdpa"]
    kept = read_record(H100, shape_of(STANDARD))
    assert kept == records[0] and kept is not None
    assert (kept.attention, kept.exchange, kept.exchange_gb_per_s) == ("flex", "cuda-ipc", 210.5)
    assert any("attention by flex" in line for line in said)


def test_it_happens_once_per_node_driver_and_torch(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    machine = Machine([H100], good)
    on(monkeypatch, tmp_path, machine)
    probe()
    asked = len(machine.asked)
    assert probe()[0] and len(machine.asked) == asked, "a second preparation leaves a GPU that may be training alone"
    on(monkeypatch, tmp_path, machine, driver="590.1")
    probe()
    assert len(machine.asked) == 2 * asked
    probe(again=True)
    assert len(machine.asked) == 3 * asked
    monkeypatch.setattr(gpu_probe, "_fa3_fetched", lambda: True)
    probe()
    assert "harness.gpu_trial fa3" in {what for what, _ in machine.asked[3 * asked :]}, "fetched meanwhile"


def test_a_doubtful_trial_is_made_again(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Say, there was no C compiler when the node was prepared first."""
    on(monkeypatch, tmp_path, Machine([H100], lambda what: broken("Failed to find C compiler")))
    assert probe()[0][0].doubt
    on(monkeypatch, tmp_path, Machine([H100], good))
    assert probe()[0][0].attention == "flex"


def test_a_gpu_that_another_process_fills_leaves_no_record(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    full = {"fa2": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"}
    machine = Machine([H100, H100], lambda what: broken(full[what.split()[-1]]) if "fa2" in what else good(what))
    on(monkeypatch, tmp_path, machine)
    records, said = probe()
    assert records == () and read_record(H100, shape_of(STANDARD)) is None
    assert any("another process uses this GPU" in line for line in said)
    assert {gpu for _, gpu in machine.asked} == {"GPU-0", "GPU-1"}, "another one of the model may be free"


def test_a_broken_exchange_or_kernel_is_recorded_not_raised(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    on(monkeypatch, tmp_path, Machine([H100], lambda what: broken("no answer within 300 s"), {}))
    (record,), _ = probe()
    assert record.exchange is None and record.attention == "sdpa" and record.doubt
    assert record.attention_refused["fa2"] == "no answer within 300 s"
    assert "fetches it" in record.attention_refused["fa3"], "what is not here is not tried"
    assert record.exchange_refused == {"cuda-ipc": "not allowed here"}


def test_a_machine_without_a_gpu_says_so_and_has_no_record(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    records, said = probe()
    assert records == () and "sees no GPU" in said[0]


@pytest.mark.parametrize(
    ("code", "due"),
    [
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("raise ImportError('no kernel here')", "ImportError: no kernel here"),
        ("print('not json')", "exit code 0"),
        ("import time\nwhile True: time.sleep(1)", "no answer within"),
    ],
)
def test_whatever_a_child_does_is_an_answer(tmp_path: Path, code: str, due: str) -> None:
    answer = gpu_probe._asker(tmp_path, STANDARD)(["-c", code], "", 1.5 if "while" in code else 60.0)
    assert answer.values is None and due in answer.problem


def test_the_record_of_this_node_is_the_one_of_its_first_gpu(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    on(monkeypatch, tmp_path, Machine([H100, "NVIDIA T4"], good))
    probe()
    shape = shape_of(STANDARD)
    monkeypatch.setattr(gpu_record, "device_names", lambda: ("NVIDIA T4", H100))
    assert record_of_this_node(shape).device == "NVIDIA T4"  # type: ignore[union-attr]
    monkeypatch.setattr(gpu_record, "device_names", tuple)
    assert record_of_this_node(shape) is None, "two records and nothing to tell which"
    record_path("NVIDIA T4", torch_version(), shape).unlink()
    assert record_of_this_node(shape).device == H100  # type: ignore[union-attr]


def test_a_record_of_another_torch_is_not_taken(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    on(monkeypatch, tmp_path, Machine([H100], good))
    (record,), _ = probe()
    record_path(H100, torch_version(), shape_of(STANDARD)).unlink()
    write_record(dataclasses.replace(record, torch="2.99.0"))
    assert read_record(H100, shape_of(STANDARD)) is None


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler: a minute saved. Under one it runs on a GPU (tests/gpu)."""
    monkeypatch.setattr(gpu_trial, "_whole", lambda attend: attend)


def test_the_trial_finds_the_control_right(eager: None) -> None:
    assert gpu_trial.relative_error("sdpa", 16, "cpu") < 1e-5


def test_the_trial_sees_a_window_that_is_one_too_short(eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    off_by_one = lambda window, length, device: sdpa(window - 1, length, device)  # noqa: E731
    monkeypatch.setitem(gpu_trial.KERNELS, "fa2", off_by_one)
    assert gpu_trial.relative_error("fa2", 16, "cpu") > gpu_probe.LARGEST_ERROR
