"""Logits on the GPU: the judge's half, by shared device memory, or through host memory where none can be shared.

The judge's context is made at the evaluation, not before: during training the whole device is the candidate's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import torch
from numpy.typing import NDArray

from harness.cuda_memory import CudaError, FdBuffer, IpcBuffer, make_context, pin
from harness.judge.exchange_host import Exchange, ExchangeUnavailable, HostExchange, NoRoom
from harness.judge.report import last_lines
from harness.protocol import Layout, Op
from harness.scoring import log_probabilities_of_tensor

_DEVICE = "cuda"  # the one that CUDA_VISIBLE_DEVICES leaves
_OUT_OF_MEMORY = re.compile("out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY", re.IGNORECASE)


class DeviceExchange(Exchange):
    """Token rows in shared memory, logits in device memory. Raises ExchangeUnavailable, NoRoom.

    `by_fd`: the candidate opens the logits by a second descriptor, else by a CUDA IPC handle behind the token rows.
    """

    def __init__(self, layout: Layout, *, by_fd: bool) -> None:
        with ExitStack() as undo:
            with _opening():
                self._buffer = FdBuffer(layout) if by_fd else IpcBuffer(layout)
            undo.callback(self._buffer.close)
            super().__init__(layout, layout.device_bytes)
            undo.pop_all()
        self.op = Op.FD_BUFFER if by_fd else Op.IPC_BUFFER
        handle = self._buffer.handle
        self._shared.memory[layout.logits_offset : layout.logits_offset + len(handle)] = handle

    @property
    def fds(self) -> tuple[int, ...]:
        return (self._shared.fd, *self._buffer.fds)

    def name(self, *, peer_pinned: bool) -> str:
        return "cuda-fd" if self.op is Op.FD_BUFFER else "cuda-ipc"

    def poison(self) -> None:
        with _needing_room():
            self._buffer.tensor.fill_(float("nan"))
            torch.cuda.synchronize()  # before the request goes out, or it would overwrite the answer

    def snapshot(self, rows: int) -> torch.Tensor:
        with _needing_room():
            private = self._buffer.tensor[:rows].clone()
            torch.cuda.synchronize()
        return private

    def reduce(self, snapshot: torch.Tensor, ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        with _needing_room():
            return log_probabilities_of_tensor(snapshot, ids)

    def close(self) -> None:
        super().close()
        self._buffer.close()


class CudaHostExchange(HostExchange):
    """Logits through host memory, reduced on the device: slower, and works wherever both processes see the GPU.

    `pinned`: page-lock the logits, so that copies run at the speed of the bus; where that is refused they do not. The
    private snapshot lies on the device. Raises ExchangeUnavailable, NoRoom.
    """

    in_place = False

    def __init__(self, layout: Layout, *, pinned: bool) -> None:
        with _opening():
            make_context()
            self._snapshot = torch.empty(layout.logits_shape, dtype=torch.float32, device=_DEVICE)
            self._nan = torch.full(layout.logits_shape[1:], float("nan"), dtype=torch.float32, device=_DEVICE)
        super().__init__(layout)
        self.op = Op.PINNED_BUFFER if pinned else Op.HOST_BUFFER
        self._shown = torch.from_numpy(self._logits)
        self._unpin: Callable[[], object] | None = None
        if pinned:
            with suppress(CudaError, RuntimeError):
                self._unpin = pin(self._logits)

    def name(self, *, peer_pinned: bool) -> str:
        return "pinned" if self._unpin is not None and peer_pinned else "host"

    def poison(self) -> None:
        if self._unpin is None:
            super().poison()
            return
        # All of it, whatever it costs: with less, a slice that was written in part would score.
        with _needing_room():
            for row in self._shown:
                row.copy_(self._nan, non_blocking=True)
            torch.cuda.synchronize()

    def snapshot(self, rows: int) -> torch.Tensor:
        with _needing_room():
            self._snapshot[:rows].copy_(self._shown[:rows])
            torch.cuda.synchronize()
        return self._snapshot[:rows]

    def reduce(self, snapshot: torch.Tensor, ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        with _needing_room():
            return log_probabilities_of_tensor(snapshot, ids)

    def close(self) -> None:
        if self._unpin is not None:
            self._unpin()
        super().close()


@contextmanager
def _needing_room() -> Iterator[None]:
    try:
        yield
    except (CudaError, RuntimeError) as error:  # a context that finds no room is a RuntimeError, an allocation its own
        if _OUT_OF_MEMORY.search(str(error)):
            raise NoRoom(f"the model leaves the judge no room on the device: {last_lines(str(error), 1)}") from error
        raise


@contextmanager
def _opening() -> Iterator[None]:
    try:
        with _needing_room():
            yield
    except (CudaError, RuntimeError) as error:
        raise ExchangeUnavailable(str(error)) from error
