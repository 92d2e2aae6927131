"""The GPU's way of passing logits, run without one: the same messages, with device memory played by a shared tensor.

Checks the exchange's order of poison, snapshot and score, and the fall-back. Not checked: CUDA itself (tests/gpu).
"""

from __future__ import annotations

import dataclasses
import mmap
from collections.abc import Callable

import numpy as np
import pytest
import torch

from harness import cuda_memory
from harness.cuda_memory import CudaError
from harness.judge import exchange_cuda
from harness.judge.evaluation import transports
from harness.judge.exchange_host import NoRoom
from harness.logits_server import TorchLogits
from harness.protocol import CUDA_HANDLE_BYTES, EXCHANGE_NAMES, Layout
from harness.scoring import NonFinite
from tests.harness import fake_cuda
from tests.harness.fake_cuda import FakeDriver
from tests.harness.judging import TINY
from tests.harness.test_judge_evaluation import TABLE, evaluate, host, random_rows


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
    monkeypatch.setattr(cuda_memory, "open_ipc_buffer", fake.open)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return fake


def by_ipc(layout: Layout) -> exchange_cuda.DeviceExchange:
    return exchange_cuda.DeviceExchange(layout, by_fd=False)


def by_fd(layout: Layout) -> exchange_cuda.DeviceExchange:
    return exchange_cuda.DeviceExchange(layout, by_fd=True)


class Pins:
    """Page-locking by hand: `refused` names the halves that may not."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.judge_holds = 0

    def by_judge(self, array: np.ndarray) -> Callable[[], object]:
        self._check("judge")
        self.judge_holds += 1
        return self._undo

    def by_candidate(self, array: np.ndarray) -> Callable[[], object]:
        self._check("candidate")
        return lambda: None

    def _undo(self) -> None:
        self.judge_holds -= 1

    def _check(self, half: str) -> None:
        if half in self.refused:
            raise CudaError("cudaHostRegister: operation not supported")


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> Pins:
    pins = Pins()
    monkeypatch.setattr(exchange_cuda, "pin", pins.by_judge)
    monkeypatch.setattr(cuda_memory, "pin", pins.by_candidate)
    monkeypatch.setattr(exchange_cuda, "make_context", lambda: None)
    monkeypatch.setattr(exchange_cuda, "_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return pins


def by_pinned_memory(layout: Layout) -> exchange_cuda.CudaHostExchange:
    return exchange_cuda.CudaHostExchange(layout, pinned=True)


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
    monkeypatch.setattr(cuda_memory, "open_ipc_buffer", decline)
    assert evaluate(rows, 4, 2, torch_answer, (by_ipc, host)) == expected


NO_ROOM = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    CudaError("cudaMalloc: cudaErrorMemoryAllocation"),
    CudaError("cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY"),
]


@pytest.mark.parametrize("error", NO_ROOM, ids=str)
@pytest.mark.parametrize("where", ["make_context", "IpcBuffer", "FdBuffer", "log_probabilities_of_tensor"])
def test_no_room_next_to_the_model_is_recognised(
    device: FakeDevice, pins: Pins, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    """Wherever the judge's work on the device meets it: a context, an allocation, the reduction."""

    def no_room(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(exchange_cuda, where, no_room)
    openers = {"IpcBuffer": (by_ipc,), "FdBuffer": (by_fd,), "make_context": (by_pinned_memory,)}
    for opener in openers.get(where, (by_ipc, by_pinned_memory)):
        with pytest.raises(NoRoom):
            evaluate(random_rows(4), 2, 1, torch_answer, (opener,))


def test_another_failure_of_the_device_is_not_for_lack_of_room(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(exchange_cuda, "log_probabilities_of_tensor", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        evaluate(random_rows(4), 2, 1, torch_answer, (by_ipc,))


@pytest.mark.parametrize(
    "refused",
    [set(), {"judge"}, {"candidate"}, {"judge", "candidate"}],
    ids=lambda names: "+".join(sorted(names)) or "none",
)
def test_page_locked_or_not_the_host_scores_alike_under_its_own_name(pins: Pins, refused: set[str]) -> None:
    rows = random_rows(11)
    pins.refused = refused
    expected, used = evaluate(rows, 5, 3, torch_answer, (host,)), list[str | None]()
    got = evaluate(rows, 5, 3, torch_answer, (by_pinned_memory,), used)
    assert got.val_bpb == pytest.approx(expected.val_bpb, rel=1e-6)
    assert used == ["host" if refused else "pinned"]
    assert pins.judge_holds == 0


@pytest.mark.parametrize("refused", [set(), {"judge"}], ids=str)
def test_what_is_not_written_to_host_memory_does_not_score(pins: Pins, refused: set[str]) -> None:
    """Every value of it, and in every slice."""
    seen: list[bool] = []

    class Partial(TorchLogits):
        def write(self, first, count, buffer) -> None:  # type: ignore[no-untyped-def]
            seen.append(bool(np.isnan(buffer.host).all()))
            super().write(first, count, buffer)
            if len(seen) == 3:
                buffer.host[0, 0, 0] = np.nan

    pins.refused = refused
    with pytest.raises(NonFinite):
        evaluate(random_rows(6), 4, 1, lambda tokens: Partial(torch_answer(tokens).tensor), (by_pinned_memory,))
    assert len(seen) >= 3
    assert all(seen)


def test_a_snapshot_no_longer_changes(pins: Pins) -> None:
    exchange = by_pinned_memory(Layout(2, 2, 32, 300))
    exchange._logits.fill(1.0)
    snapshot = exchange.snapshot(2)
    exchange._logits.fill(2.0)
    assert (snapshot == 1.0).all()
    exchange.close()


def test_without_a_gpu_a_cuda_buffer_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    layout = Layout(2, 1, 16, 300)
    with mmap.mmap(-1, layout.device_bytes) as memory, pytest.raises((CudaError, RuntimeError)):
        cuda_memory.open_ipc_buffer(layout, memory)


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


@pytest.mark.parametrize("exchange", ["auto", *EXCHANGE_NAMES])
def test_the_arguments_name_the_transport_or_leaves_the_choice(
    driver: FakeDriver, device: FakeDevice, pins: Pins, exchange: str
) -> None:
    offered = transports(dataclasses.replace(TINY, device="cuda"), exchange, on_gpu=True)
    names = []
    for opener in offered.openers:
        opened = opener(Layout(2, 1, 32, 300))
        names.append(opened.name(peer_pinned=True))
        opened.close()
    assert names == (["cuda-ipc", "cuda-fd", "pinned"] if exchange == "auto" else [exchange])
