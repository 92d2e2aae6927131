"""The measurement of exchanges without a GPU: the host for real, everything else a refusal with its reason."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import pytest

from harness import cuda_memory, exchange_probe
from harness.cuda_memory import CudaError
from harness.exchange_probe import measure_exchanges
from harness.protocol import socket_pair
from tests.harness.judging import TINY
from tests.harness.test_judge_evaluation import run_candidate
from tests.waiting import wait_until


def test_the_host_is_measured_on_a_cpu() -> None:
    rates, refusals = measure_exchanges(TINY, "cpu", slices=2)
    assert list(rates) == ["host"]
    assert 0.001 < rates["host"] < 1000
    assert refusals == {}


def test_an_exchange_that_does_not_work_here_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge and candidate of one measurement, in this process."""

    def no_context() -> None:
        raise CudaError("no CUDA device")

    monkeypatch.setattr(cuda_memory, "make_context", no_context)
    ours, theirs = socket_pair()
    with theirs:
        candidate = threading.Thread(target=run_candidate, args=(theirs, exchange_probe._constant(TINY, "cpu"), 2, []))
        candidate.start()
        with ours:
            answer = exchange_probe._judge(ours, TINY, "cuda", 1, "cuda-fd")
        candidate.join()
    assert answer == {"refused": "no CUDA device"}


HALVES = {
    "crash": ("import sys; sys.exit('it broke')", "it broke"),
    "silence": ("pass", "ended without a word"),
    "junk": ("print('[1')", "ended without a word"),
    "hang": ("import time; time.sleep(3600)", "no result within 0.5 s"),
}


@pytest.mark.parametrize(("program", "reason"), HALVES.values(), ids=HALVES.keys())
def test_a_half_that_goes_wrong_is_a_refusal_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, reason: str
) -> None:
    note = "import os, sys; open(os.path.join(sys.argv[1], sys.argv[2]), 'w').write(str(os.getpid()))\n"
    monkeypatch.setattr(exchange_probe, "_PROGRAM", (sys.executable, "-c", note + program, str(tmp_path)))
    monkeypatch.setattr(exchange_probe, "_LIMIT_S", 0.5 if "sleep" in program else 60.0)
    gc.collect()  # row files that earlier tests mapped would be closed between the two counts
    before = len(os.listdir("/proc/self/fd"))
    rates, refusals = measure_exchanges(TINY, "cpu")
    assert rates == {}
    assert reason in refusals["host"]
    assert len(os.listdir("/proc/self/fd")) == before
    for file in tmp_path.iterdir():
        pid = file.read_text()
        wait_until(lambda pid=pid: not pid or not os.path.exists(f"/proc/{pid}"), "the half to end")
