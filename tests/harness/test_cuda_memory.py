"""Device memory shared by descriptor, against a stand-in for the driver: sizes, undoing, errors by name."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch

from harness import cuda_memory
from harness.cuda_memory import CudaError, FdBuffer, open_fd_buffer
from harness.protocol import Layout
from tests.harness import fake_cuda
from tests.harness.fake_cuda import GRANULE, SETUP_CALLS, FakeDriver

LAYOUT = Layout(forward_rows=4, slice_rows=2, sequence_length=16, vocab_size=300)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return fake_cuda.install(monkeypatch)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_structures_are_those_of_cuda_h() -> None:
    """Sizes and offsets as a C compiler lays them out on 64-bit Linux."""
    assert ctypes.sizeof(cuda_memory._Properties) == 32
    assert cuda_memory._Properties.location.offset == 8
    assert cuda_memory._Properties.win32_meta_data.offset == 16
    assert ctypes.sizeof(cuda_memory._Access) == 12
    assert cuda_memory._Access.flags.offset == 8


def test_what_one_side_writes_the_other_reads(driver: FakeDriver) -> None:
    buffer = FdBuffer(LAYOUT)
    theirs = open_fd_buffer(LAYOUT, *buffer.fds)
    theirs.copy_(torch.arange(theirs.numel(), dtype=torch.float32).view_as(theirs))
    assert tuple(buffer.tensor.shape) == LAYOUT.logits_shape
    assert torch.equal(buffer.tensor, theirs)
    assert {len(memory) for memory in driver.mapped.values()} == {GRANULE}
    buffer.close()


def test_closing_gives_everything_back_and_leaves_the_peer_its_mapping(driver: FakeDriver) -> None:
    buffer = FdBuffer(LAYOUT)
    assert not os.get_inheritable(buffer.fds[0])
    theirs = open_fd_buffer(LAYOUT, *buffer.fds)
    buffer.close()
    assert driver.held == (1, 1, 1)
    theirs.fill_(3.0)
    with pytest.raises(OSError):
        os.fstat(buffer.fds[0])


@pytest.mark.parametrize("call", SETUP_CALLS)
def test_a_set_up_that_fails_half_way_leaves_nothing(driver: FakeDriver, call: str) -> None:
    before = open_descriptors()
    driver.refused[call] = 801
    with pytest.raises(CudaError, match=f"{call}: CUDA_ERROR_NOT_SUPPORTED"):
        FdBuffer(LAYOUT)
    assert driver.held == (0, 0, 0)
    assert open_descriptors() == before


def test_a_tensor_that_cannot_be_made_leaves_nothing(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: int, layout: Layout) -> torch.Tensor:
        raise RuntimeError("no tensor over this")

    monkeypatch.setattr(cuda_memory, "logits_tensor", refuse)
    before = open_descriptors()
    with pytest.raises(RuntimeError):
        FdBuffer(LAYOUT)
    assert driver.held == (0, 0, 0)
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "call", ["cuMemImportFromShareableHandle", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"]
)
def test_an_import_that_fails_half_way_leaves_nothing(driver: FakeDriver, call: str) -> None:
    buffer = FdBuffer(LAYOUT)
    before, held = open_descriptors(), driver.held
    driver.refused[call] = 801
    with pytest.raises(CudaError, match="NOT_SUPPORTED"):
        open_fd_buffer(LAYOUT, *buffer.fds)
    assert driver.held == held
    assert open_descriptors() == before
    buffer.close()


def test_a_descriptor_of_something_else_is_refused(driver: FakeDriver) -> None:
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(CudaError, match="cuMemImportFromShareableHandle: CUDA_ERROR_INVALID_VALUE"):
            open_fd_buffer(LAYOUT, read_end)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert driver.held == (0, 0, 0)


def test_an_old_driver_is_named_by_what_it_lacks(driver: FakeDriver) -> None:
    driver.missing.add("cuMemCreate")
    with pytest.raises(CudaError, match="no cuMemCreate"):
        FdBuffer(LAYOUT)


def test_an_error_without_a_name_keeps_its_number(driver: FakeDriver) -> None:
    driver.refused["cuMemCreate"] = 4711
    with pytest.raises(CudaError, match="cuMemCreate: CUresult 4711"):
        FdBuffer(LAYOUT)
