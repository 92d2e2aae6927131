"""The candidate's half of an evaluation: rows of the judge go through a model, logits go into a buffer of the judge's.

One forward per batch of rows, its logits slice by slice in lock step. The judge alone computes the score, or this
process where no judge is. Imports torch only for a model.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.cache import Cache
from harness.contract import Contract
from harness.protocol import (
    BATCH_SIZE_LIMIT,
    Closed,
    Layout,
    Message,
    Op,
    Opening,
    ProtocolError,
    receive,
    receive_with_fds,
    send,
)
from harness.rows import padded_batches, read_rows
from harness.scoring import Tally, TokenBytes, tally_logits, tally_tensor

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Buffer:
    """Where logits go: `host`, float32 [slice_rows, T, V] in shared memory, or `device`, such a CUDA tensor."""

    host: NDArray[np.float32] | None
    device: Any


class Logits(Protocol):
    """The logits of one forward, [rows, T, V]."""

    def write(self, first: int, count: int, buffer: Buffer) -> None:
        """Put rows first .. first+count-1 at the start of the buffer, complete when this returns."""


Forward = Callable[[NDArray[np.uint16]], Logits]
_DESCRIPTORS = {Op.HOST_BUFFER: 1, Op.IPC_BUFFER: 1, Op.FD_BUFFER: 2, Op.PINNED_BUFFER: 1}


def serve(
    sock: socket.socket,
    forward: Forward,
    batch_size: int,
    contract: Contract,
    make_room: Callable[[], None] = lambda: None,
) -> float:
    """Announce EVAL, answer every batch the judge sends, return the judge's val_bpb.

    `make_room` runs after EVAL, which stops the budget clock, and before the judge takes memory on the device.
    Raises ValueError for a batch size that is no positive integer, SystemExit when the judge is gone.
    """
    if not 0 < int(batch_size) < BATCH_SIZE_LIMIT:
        raise ValueError(f"batch_size must be between 1 and {BATCH_SIZE_LIMIT - 1}, not {batch_size}")
    try:
        send(sock, Message(Op.EVAL, integer=int(batch_size)))
        make_room()
        send(sock, Message(Op.ROOM))
        return _answer(sock, forward, *_open_offer(sock, contract))
    except Closed:
        raise SystemExit("the judge is gone") from None


def _answer(
    sock: socket.socket, forward: Forward, tokens: NDArray[np.uint16], buffer: Buffer, slice_rows: int
) -> float:
    logits: Logits | None = None
    first = 0
    while True:
        request = receive(sock)
        if request.op is Op.END:
            return request.real
        if request.op is Op.BATCH:
            logits = None  # gigabytes, and the next ones are about to be computed
            logits, first = forward(tokens.copy()), 0
        elif request.op is not Op.SLICE or logits is None:
            raise ProtocolError(f"the judge sent {request.op.name} in an evaluation")
        count = min(slice_rows, len(tokens) - first)
        logits.write(first, count, buffer)
        first += count
        send(sock, Message(Op.DONE, count=request.count))


def _open_offer(sock: socket.socket, contract: Contract) -> tuple[NDArray[np.uint16], Buffer, int]:
    """Token rows, buffer and rows of a slice; a CUDA buffer that this process cannot open is declined for the next."""
    while True:
        message, fds = receive_with_fds(sock)
        with contextlib.ExitStack() as closing:
            for fd in fds:
                closing.callback(os.close, fd)
            if len(fds) != _DESCRIPTORS.get(message.op):
                raise ProtocolError(f"the judge answered {message.op.name} where a buffer was due")
            layout = Layout(message.count, message.integer, contract.sequence_length, contract.vocab_size)
            memory = mmap.mmap(fds[0], 0)
            buffer, opening = _open_buffer(message.op, layout, memory, fds[1:])
        send(sock, Message(Op.READY, count=opening))
        if buffer is not None:
            return layout.tokens(memory), buffer, message.integer


def _open_buffer(op: Op, layout: Layout, memory: mmap.mmap, fds: tuple[int, ...]) -> tuple[Buffer | None, Opening]:
    host = Buffer(layout.host_logits(memory), None) if op in (Op.HOST_BUFFER, Op.PINNED_BUFFER) else None
    if op is Op.HOST_BUFFER:
        return host, Opening.OPENED
    from harness import cuda_memory

    try:
        if host is not None:
            cuda_memory.pin(layout.host_logits(memory))
            return host, Opening.PINNED
        by_fd = op is Op.FD_BUFFER
        device = cuda_memory.open_fd_buffer(layout, *fds) if by_fd else cuda_memory.open_ipc_buffer(layout, memory)
        return Buffer(None, device), Opening.OPENED
    except (cuda_memory.CudaError, RuntimeError) as error:
        sys.stderr.write(f"evaluation: {op.name} does not work here: {error}\n")
        return host, Opening.REFUSED if host is None else Opening.OPENED


class TorchLogits:
    """One forward's logits as torch leaves them, on their device."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.tensor = logits

    def write(self, first: int, count: int, buffer: Buffer) -> None:
        import torch

        target = buffer.device if buffer.host is None else torch.from_numpy(buffer.host)
        target[:count].copy_(self.tensor[first : first + count])
        if self.tensor.is_cuda:
            torch.cuda.synchronize()


def forward_of(model: Any, contract: Contract) -> Callable[[NDArray[np.uint16]], TorchLogits]:
    """Wrap a torch model (int64 [b, T] -> logits [b, T, V]) as a function of token rows uint16 [b, T].

    The function raises ValueError for logits of another shape.
    """
    import torch

    def forward(tokens: NDArray[np.uint16]) -> TorchLogits:
        x = torch.from_numpy(tokens.astype(np.int64)).to(contract.device)
        with torch.no_grad():
            logits = model(x)
        due = (*tokens.shape, contract.vocab_size)
        if tuple(getattr(logits, "shape", ())) != due:
            given = tuple(logits.shape) if hasattr(logits, "shape") else f"a {type(logits).__name__}"
            raise ValueError(f"model(x) must return logits of shape {due}, not {given}")
        return TorchLogits(logits.detach())

    return forward


def score_in_process(model: Any, batch_size: int, contract: Contract, cache: Cache) -> float:
    """val_bpb of a torch model without a judge: the same rows, bytes and arithmetic. Raises ValueError, NonFinite."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    forward, token_bytes, total = forward_of(model, contract), TokenBytes.load(cache), Tally()
    for batch in padded_batches(read_rows(cache.val_rows_path, contract.sequence_length), batch_size):
        # The logits have no name here, so that they are gone before the next ones are computed.
        total += _tally(forward(batch.rows[:, :-1].copy()).tensor, batch.rows[: batch.valid, 1:], token_bytes)
    return total.score().val_bpb


def _tally(logits: torch.Tensor, targets: NDArray[np.uint16], token_bytes: TokenBytes) -> Tally:
    if logits.is_cuda:
        return tally_tensor(logits[: len(targets)], targets, token_bytes)
    return tally_logits(logits.float().cpu().numpy()[: len(targets)], targets, token_bytes)
