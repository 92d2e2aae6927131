"""On a GPU: logits reach the judge through CUDA IPC and through the host, and are worth the same as on a CPU."""

from __future__ import annotations

import dataclasses
import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.cuda_ipc import ExportedBuffer
from harness.exchange import CUDA_HANDLE_BYTES, Layout
from harness.scoring_cuda import tally_tensor
from tests.harness.judging import CANDIDATES, REPOSITORY, TINY, Rig, with_budget
from tests.harness.test_judge_scoring import BYTES, sample

pytestmark = pytest.mark.gpu

LAYOUT = Layout(forward_rows=4, slice_rows=2, sequence_length=16, vocab_size=300)
OPEN = f"""
import mmap, sys, torch
from harness.cuda_ipc import open_buffer
from harness.exchange import Layout
layout = Layout({LAYOUT.forward_rows}, {LAYOUT.slice_rows}, {LAYOUT.sequence_length}, {LAYOUT.vocab_size})
memory = mmap.mmap(-1, layout.device_bytes)
memory[layout.logits_offset:] = bytes.fromhex(sys.argv[1])
tensor = open_buffer(layout, memory)
assert tensor is not None and tuple(tensor.shape) == (2, 16, 300)
tensor.copy_(torch.arange(tensor.numel(), device="cuda", dtype=torch.float32).view_as(tensor))
torch.cuda.synchronize()
"""
GPU = with_budget(dataclasses.replace(TINY, device="cuda"), clock="wall", seconds=1.0, grace_s=60.0, wall_limit_s=120.0)
NO_IPC = "import harness.cuda_ipc\nharness.cuda_ipc.open_buffer = lambda layout, memory: None\n"


def test_another_process_writes_into_the_exported_buffer() -> None:
    buffer = ExportedBuffer(LAYOUT)
    try:
        buffer.tensor.fill_(float("nan"))
        torch.cuda.synchronize()
        assert len(buffer.handle) == CUDA_HANDLE_BYTES
        subprocess.run([sys.executable, "-c", OPEN, buffer.handle.hex()], check=True, cwd=REPOSITORY, timeout=120)
        expected = torch.arange(buffer.tensor.numel(), dtype=torch.float32).view_as(buffer.tensor)
        assert torch.equal(buffer.tensor.cpu(), expected)
    finally:
        buffer.close()


def test_a_handle_that_names_nothing_is_declined() -> None:
    from harness.cuda_ipc import open_buffer

    assert open_buffer(LAYOUT, mmap.mmap(-1, LAYOUT.device_bytes)) is None
    assert torch.ones(1, device="cuda").item() == 1.0, "the refused call must not poison later ones"


def test_the_reduction_on_the_device_is_the_hosts() -> None:
    logits, targets = sample(3, 5.0)
    tensor = torch.from_numpy(logits)
    on_device, on_host = tally_tensor(tensor.cuda(), targets, BYTES), tally_tensor(tensor, targets, BYTES)
    assert on_device.nats == pytest.approx(on_host.nats, rel=1e-6)
    assert on_device.bytes == on_host.bytes


def test_both_ways_give_the_score_of_the_cpu(tmp_path: Path) -> None:
    """The rows of both contracts come from one seed; only the device differs."""
    source = (CANDIDATES / "random_net.py").read_text()
    rig = Rig(tmp_path)
    rig.use(with_budget(TINY, grace_s=60.0, wall_limit_s=120.0))
    expected = rig.judge(rig.write(source)).result["val_bpb"]
    rig.use(GPU)
    for text in (source, NO_IPC + source):
        judged = rig.judge(rig.write(text))
        assert judged.result["status"] == "ok", json.dumps(judged.result) + judged.log + judged.stderr
        assert judged.result["val_bpb"] == pytest.approx(expected, rel=1e-4)
        assert judged.result["device"]["kind"] == "cuda"
    assert rig.survivors() == []
