"""Logits on the GPU: the judge's half, by shared device memory, or through host memory where none can be shared.

Covers: the same exchange as on a CPU with the reduction on the device. The judge's context is made at the evaluation,
not before: during training the whole device is the candidate's. Not covered: sharing device memory (harness.cuda_ipc,
harness.cuda_fd).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.cuda_fd import FdBuffer
from harness.cuda_ipc import IpcBuffer
from harness.cuda_memory import CudaError
from harness.exchange import Layout
from harness.judge.exchange_host import ExchangeUnavailable, HostExchange, NoRoom, SharedMemory
from harness.protocol import Op
from harness.scoring import Tally, TokenBytes
from harness.scoring_cuda import tally_tensor


class DeviceExchange:
    """Token rows in shared memory, logits in device memory. Raises ExchangeUnavailable."""

    def __init__(self, layout: Layout, token_bytes: TokenBytes, name: str, op: Op, share: Callable[[Layout], Any]):
        self.layout = layout
        self.name = name
        self.op = op
        self._token_bytes = token_bytes
        with ExitStack() as undo:
            self._buffer = _opened(share, layout)
            undo.callback(self._buffer.close)
            self._shared = SharedMemory(layout.device_bytes)
            undo.callback(self._shared.close)
            self._tokens = layout.tokens(self._shared.memory)
            handle = self._buffer.handle
            self._shared.memory[layout.logits_offset : layout.logits_offset + len(handle)] = handle
            self._undo = undo.pop_all()

    @property
    def fds(self) -> tuple[int, ...]:
        return (self._shared.fd, *self._buffer.fds)

    def put_tokens(self, tokens: NDArray[np.uint16]) -> None:
        self._tokens[...] = tokens

    def poison(self) -> None:
        self._buffer.tensor.fill_(float("nan"))
        torch.cuda.synchronize()  # before the request goes out, or it would overwrite the answer

    def snapshot(self, rows: int) -> torch.Tensor:
        with _needing_room():
            private = self._buffer.tensor[:rows].clone()
        torch.cuda.synchronize()
        return private

    def tally(self, snapshot: torch.Tensor, targets: NDArray[np.uint16]) -> Tally:
        with _needing_room():
            return tally_tensor(snapshot, targets, self._token_bytes)

    def close(self) -> None:
        self._undo.close()


class CudaHostExchange(HostExchange):
    """Logits through host memory, reduced on the device: slower, and works wherever both processes see the GPU."""

    def tally(self, snapshot: NDArray[np.float32], targets: NDArray[np.uint16]) -> Tally:
        with _needing_room():
            return tally_tensor(torch.from_numpy(snapshot).to("cuda"), targets, self._token_bytes)


@contextmanager
def _needing_room() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NoRoom("the model leaves the judge no room on the device") from error


def _opened(share: Callable[[Layout], Any], layout: Layout) -> Any:
    try:
        return share(layout)
    except (CudaError, RuntimeError) as error:
        raise ExchangeUnavailable(str(error)) from error


def ipc_exchange(layout: Layout, token_bytes: TokenBytes) -> DeviceExchange:
    return DeviceExchange(layout, token_bytes, "cuda-ipc", Op.IPC_BUFFER, IpcBuffer)


def fd_exchange(layout: Layout, token_bytes: TokenBytes) -> DeviceExchange:
    return DeviceExchange(layout, token_bytes, "cuda-fd", Op.FD_BUFFER, FdBuffer)
