"""On a GPU: logits reach the judge by every exchange, and are worth the same as on a CPU."""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import cuda_memory
from harness.contract import load_contract
from harness.cuda_memory import CudaError, FdBuffer, IpcBuffer, pin
from harness.exchange_probe import measure_exchanges
from harness.protocol import EXCHANGE_NAMES, Layout
from harness.scoring import tally_tensor
from tests.harness.judging import CANDIDATES, REPOSITORY, TINY, Rig, with_budget
from tests.harness.scoring_samples import BYTES, sample

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # torch's warnings are not ours

LAYOUT = Layout(forward_rows=4, slice_rows=2, sequence_length=16, vocab_size=300)
OPEN = f"""
import mmap, sys, torch
from harness.cuda_memory import open_fd_buffer, open_ipc_buffer
from harness.protocol import Layout
layout = Layout({LAYOUT.forward_rows}, {LAYOUT.slice_rows}, {LAYOUT.sequence_length}, {LAYOUT.vocab_size})
memory = mmap.mmap(-1, layout.device_bytes)
handle, fds = bytes.fromhex(sys.argv[1]), sys.argv[2:]
memory[layout.logits_offset : layout.logits_offset + len(handle)] = handle
tensor = open_fd_buffer(layout, int(fds[0])) if fds else open_ipc_buffer(layout, memory)
assert tuple(tensor.shape) == (2, 16, 300)
tensor.copy_(torch.arange(tensor.numel(), device="cuda", dtype=torch.float32).view_as(tensor))
torch.cuda.synchronize()
"""
GPU = with_budget(dataclasses.replace(TINY, device="cuda"), clock="wall", seconds=1.0, grace_s=60.0, wall_limit_s=120.0)
NO_IPC = """
import harness.cuda_memory
def refuse(layout, memory): raise harness.cuda_memory.CudaError("not here")
harness.cuda_memory.open_ipc_buffer = refuse
"""
NO_FD = "harness.cuda_memory.open_fd_buffer = refuse\n"


@pytest.mark.parametrize("share", [IpcBuffer, FdBuffer])
def test_another_process_writes_into_the_shared_buffer(share: type[IpcBuffer] | type[FdBuffer]) -> None:
    buffer = share(LAYOUT)
    try:
        buffer.tensor.fill_(float("nan"))
        torch.cuda.synchronize()
        arguments = [buffer.handle.hex(), *map(str, buffer.fds)]
        subprocess.run(
            [sys.executable, "-c", OPEN, *arguments], check=True, cwd=REPOSITORY, timeout=120, pass_fds=buffer.fds
        )
        expected = torch.arange(buffer.tensor.numel(), dtype=torch.float32).view_as(buffer.tensor)
        assert torch.equal(buffer.tensor.cpu(), expected)
    finally:
        buffer.close()


@pytest.mark.parametrize("share", [IpcBuffer, FdBuffer])
def test_buffers_given_back_can_be_taken_again(share: type[IpcBuffer] | type[FdBuffer]) -> None:
    large = Layout(4, 4, 2048, 8192)
    share(large).close()
    before = torch.cuda.mem_get_info()[0]
    for _ in range(20):
        share(large).close()
    assert before - torch.cuda.mem_get_info()[0] < large.logits_bytes


def test_what_names_no_memory_is_refused() -> None:
    read_end, write_end = os.pipe()
    for open_nothing in (
        lambda: cuda_memory.open_ipc_buffer(LAYOUT, mmap.mmap(-1, LAYOUT.device_bytes)),
        lambda: cuda_memory.open_fd_buffer(LAYOUT, read_end),
    ):
        with pytest.raises(CudaError):
            open_nothing()
        assert torch.ones(1, device="cuda").item() == 1.0, "the refused call must not poison later ones"
    os.close(read_end)
    os.close(write_end)


def test_shared_host_memory_can_be_page_locked() -> None:
    with mmap.mmap(-1, LAYOUT.host_bytes) as memory:
        view = LAYOUT.host_logits(memory)
        unpin = pin(view)
        assert torch.from_numpy(view).is_pinned()
        unpin()
        assert not torch.from_numpy(view).is_pinned()
        del view


def test_the_reduction_on_the_device_is_the_hosts() -> None:
    logits, targets = sample(3, 5.0)
    tensor = torch.from_numpy(logits)
    on_device, on_host = tally_tensor(tensor.cuda(), targets, BYTES), tally_tensor(tensor, targets, BYTES)
    assert on_device.nats == pytest.approx(on_host.nats, rel=1e-6)
    assert on_device.bytes == on_host.bytes


def test_every_way_gives_the_score_of_the_cpu(tmp_path: Path) -> None:
    """The rows of both contracts come from one seed; only the device differs."""
    source = (CANDIDATES / "random_net.py").read_text()
    rig = Rig(tmp_path)
    rig.use(with_budget(TINY, grace_s=60.0, wall_limit_s=120.0))
    expected = rig.judge(rig.write(source)).result["val_bpb"]
    rig.use(GPU)
    for name, options, text in (
        *((name, ("--exchange", name), source) for name in EXCHANGE_NAMES),
        ("cuda-fd", (), NO_IPC + source),
        ("pinned", (), NO_IPC + NO_FD + source),
    ):
        judged = rig.judge(rig.write(text), *options)
        assert judged.result["status"] == "ok", json.dumps(judged.result) + judged.log + judged.stderr
        assert judged.result["exchange"] == name
        assert judged.result["val_bpb"] == pytest.approx(expected, rel=1e-4)
        assert judged.result["device"]["kind"] == "cuda"
    assert rig.survivors() == []


def test_the_exchanges_are_measured() -> None:
    rates, refusals = measure_exchanges(load_contract("standard"), "cuda")
    assert set(rates) | set(refusals) == set(EXCHANGE_NAMES)
    assert rates["host"] > 0.1
    assert max(rates.values()) > rates["host"], json.dumps([rates, refusals])
