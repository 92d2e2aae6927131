"""Logits on the GPU: the judge's half, by CUDA IPC, or through host memory where IPC does not work.

Covers: the same exchange as on a CPU with the reduction on the device. The judge's context is made at the evaluation,
not before: during training the whole device is the candidate's. Not covered: IPC itself (harness.cuda_ipc).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from harness.cuda_ipc import CudaError, ExportedBuffer
from harness.exchange import Layout
from harness.judge.exchange_host import ExchangeUnavailable, HostExchange, NoRoom, SharedMemory
from harness.protocol import Op
from harness.scoring import Tally, TokenBytes
from harness.scoring_cuda import tally_tensor


class CudaExchange:
    """Token rows in shared memory, logits in a CUDA IPC allocation. Raises ExchangeUnavailable."""

    name = "cuda-ipc"
    op = Op.CUDA_BUFFER

    def __init__(self, layout: Layout, token_bytes: TokenBytes) -> None:
        self.layout = layout
        self._token_bytes = token_bytes
        self._buffer = _export(layout)
        self._shared = SharedMemory(layout.device_bytes)
        self._tokens = layout.tokens(self._shared.memory)
        self._shared.memory[layout.logits_offset :] = self._buffer.handle

    @property
    def fd(self) -> int:
        return self._shared.fd

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
        self._shared.close()
        self._buffer.close()


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


def _export(layout: Layout) -> ExportedBuffer:
    try:
        return ExportedBuffer(layout)
    except (CudaError, RuntimeError) as error:
        raise ExchangeUnavailable(str(error)) from error
