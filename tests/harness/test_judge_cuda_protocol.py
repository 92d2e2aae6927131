"""The GPU's way of passing logits, run without one: the same dialogue, with device memory played by a shared tensor.

Checks the exchange's order of poison, snapshot and score, and the fall-back. Not checked: CUDA itself (tests/gpu).
"""

from __future__ import annotations

import mmap

import numpy as np
import pytest
import torch

from harness import cuda_ipc
from harness.cuda_memory import CudaError
from harness.evaluation import TorchLogits
from harness.exchange import CUDA_HANDLE_BYTES, Layout
from harness.judge import exchange_cuda
from harness.judge.exchange_host import NoRoom
from harness.scoring import NonFinite
from tests.harness import fake_cuda
from tests.harness.fake_cuda import FakeDriver
from tests.harness.test_judge_evaluation import BYTES, TABLE, evaluate, host, random_rows


class FakeDevice:
    """Allocations by handle, as two processes on one GPU would see them."""

    def __init__(self) -> None:
        self.allocations: dict[bytes, torch.Tensor] = {}
        self.closed = 0

    def export(self, layout: Layout) -> FakeBuffer:
        return FakeBuffer(self, layout)

    def open(self, layout: Layout, memory) -> torch.Tensor:  # type: ignore[no-untyped-def]
        return self.allocations[memory[layout.logits_offset : layout.logits_offset + CUDA_HANDLE_BYTES]]


class FakeBuffer:
    fds: tuple[int, ...] = ()

    def __init__(self, device: FakeDevice, layout: Layout) -> None:
        self._device = device
        self.handle = len(device.allocations).to_bytes(CUDA_HANDLE_BYTES, "little")
        self.tensor = torch.zeros(layout.slice_rows, layout.sequence_length, layout.vocab_size)
        device.allocations[self.handle] = self.tensor

    def close(self) -> None:
        self._device.closed += 1


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    fake = FakeDevice()
    monkeypatch.setattr(exchange_cuda, "IpcBuffer", fake.export)
    monkeypatch.setattr(cuda_ipc, "open_buffer", fake.open)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return fake


def by_ipc(layout: Layout) -> exchange_cuda.DeviceExchange:
    return exchange_cuda.ipc_exchange(layout, BYTES)


def by_fd(layout: Layout) -> exchange_cuda.DeviceExchange:
    return exchange_cuda.fd_exchange(layout, BYTES)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return fake_cuda.install(monkeypatch)


def torch_answer(tokens: np.ndarray) -> TorchLogits:
    return TorchLogits(torch.from_numpy(TABLE)[torch.from_numpy(tokens.astype(np.int64))])


@pytest.mark.parametrize(("batch_size", "slice_rows"), [(1, 1), (4, 2), (5, 3), (100, 4)])
def test_the_device_path_scores_as_the_host_path(device: FakeDevice, batch_size: int, slice_rows: int) -> None:
    rows = random_rows(11)
    expected = evaluate(rows, batch_size, slice_rows, torch_answer, (host,))
    got = evaluate(rows, batch_size, slice_rows, torch_answer, (by_ipc,))
    assert got.val_bpb == pytest.approx(expected.val_bpb, rel=1e-6)
    assert got.val_bpb_upstream == pytest.approx(expected.val_bpb_upstream, rel=1e-6)
    assert device.closed == 1


def test_what_is_not_written_to_the_device_does_not_score(device: FakeDevice) -> None:
    class Idle(TorchLogits):
        def write(self, first, count, buffer) -> None:  # type: ignore[no-untyped-def]
            assert torch.isnan(buffer.device).all(), "every slice begins poisoned"

    with pytest.raises(NonFinite):
        evaluate(random_rows(4), 2, 1, lambda tokens: Idle(torch.zeros(1)), (by_ipc,))


def test_where_the_device_cannot_be_shared_the_host_is_next(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(layout: Layout) -> FakeBuffer:
        raise CudaError("cudaMalloc: not supported")

    def decline(layout: Layout, memory: mmap.mmap) -> torch.Tensor:
        raise CudaError("cudaIpcOpenMemHandle: invalid argument")

    rows = random_rows(6)
    expected = evaluate(rows, 4, 2, torch_answer, (host,))
    monkeypatch.setattr(exchange_cuda, "IpcBuffer", refuse)
    assert evaluate(rows, 4, 2, torch_answer, (by_ipc, host)) == expected
    monkeypatch.setattr(exchange_cuda, "IpcBuffer", device.export)
    monkeypatch.setattr(cuda_ipc, "open_buffer", decline)
    assert evaluate(rows, 4, 2, torch_answer, (by_ipc, host)) == expected


def test_no_room_beside_the_model_is_told_apart(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(exchange_cuda, "tally_tensor", no_room)
    with pytest.raises(NoRoom):
        evaluate(random_rows(4), 2, 1, torch_answer, (by_ipc,))


def test_without_a_gpu_a_cuda_buffer_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    layout = Layout(2, 1, 16, 300)
    with mmap.mmap(-1, layout.device_bytes) as memory, pytest.raises((CudaError, RuntimeError)):
        cuda_ipc.open_buffer(layout, memory)


def test_by_descriptor_scores_as_by_the_host(driver: FakeDriver) -> None:
    rows = random_rows(11)
    assert evaluate(rows, 5, 3, torch_answer, (by_fd,)).val_bpb == pytest.approx(
        evaluate(rows, 5, 3, torch_answer, (host,)).val_bpb, rel=1e-6
    )
    assert driver.held == (1, 1, 1), "the judge gave everything back; the candidate keeps its mapping until it ends"


@pytest.mark.parametrize("call", ["cuMemExportToShareableHandle", "cuMemImportFromShareableHandle"])
def test_where_no_descriptor_passes_the_host_is_next(driver: FakeDriver, call: str) -> None:
    """Refused in the judge or in the candidate; neither keeps anything."""
    rows = random_rows(6)
    driver.refused[call] = 801
    assert evaluate(rows, 4, 2, torch_answer, (by_fd, host)) == evaluate(rows, 4, 2, torch_answer, (host,))
    assert driver.held == (0, 0, 0)
