"""The candidate's half of an evaluation: rows come in by shared memory, logits go out by a buffer of the judge's.

Covers: mapping the judge's memory, one forward per batch of rows, writing its logits slice by slice, in lock step.
Not covered: what the logits are worth (the judge alone computes that) and torch itself (harness.evaluation adapts
models).
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

from harness.contract import Contract
from harness.exchange import Layout
from harness.protocol import (
    BATCH_SIZE_LIMIT,
    Closed,
    Message,
    Op,
    Opening,
    ProtocolError,
    receive,
    receive_with_fds,
    send,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Logits(Protocol):
    """The logits of one forward, [rows, T, V]."""

    def write(self, first: int, count: int, buffer: Buffer) -> None:
        """Put rows first .. first+count-1 at the start of the buffer, complete when this returns."""


_DESCRIPTORS = {Op.HOST_BUFFER: 1, Op.IPC_BUFFER: 1, Op.FD_BUFFER: 2, Op.PINNED_BUFFER: 1}
Forward = Callable[["NDArray[np.uint16]"], Logits]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Where logits go: `host`, float32 [slice_rows, T, V] in shared memory, or `device`, such a CUDA tensor."""

    host: NDArray[np.float32] | None
    device: Any


@dataclass(frozen=True, slots=True)
class _Offer:
    tokens: NDArray[np.uint16]
    buffer: Buffer
    slice_rows: int


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
        return _answer(sock, forward, _open_offer(sock, contract))
    except Closed:
        raise SystemExit("the judge is gone") from None


def _answer(sock: socket.socket, forward: Forward, offer: _Offer) -> float:
    logits: Logits | None = None
    first = 0
    while True:
        request = receive(sock)
        if request.op is Op.END:
            return request.real
        if request.op is Op.BATCH:
            logits = None  # gigabytes, and the next ones are about to be computed
            logits, first = forward(offer.tokens.copy()), 0
        elif request.op is not Op.SLICE or logits is None:
            raise ProtocolError(f"the judge sent {request.op.name} in an evaluation")
        count = min(offer.slice_rows, len(offer.tokens) - first)
        logits.write(first, count, offer.buffer)
        first += count
        send(sock, Message(Op.DONE, count=request.count))


def _open_offer(sock: socket.socket, contract: Contract) -> _Offer:
    """Take the judge's buffer; decline a CUDA one that this process cannot open, and take the next."""
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
            return _Offer(layout.tokens(memory), buffer, message.integer)


def _open_buffer(op: Op, layout: Layout, memory: mmap.mmap, fds: tuple[int, ...]) -> tuple[Buffer | None, Opening]:
    host = Buffer(layout.host_logits(memory), None) if op in (Op.HOST_BUFFER, Op.PINNED_BUFFER) else None
    if op is Op.HOST_BUFFER:
        return host, Opening.OPENED
    from harness import cuda_fd, cuda_ipc, cuda_memory

    try:
        if host is not None:
            cuda_memory.pin(layout.host_logits(memory))
            return host, Opening.PINNED
        device = cuda_fd.open_buffer(layout, *fds) if op is Op.FD_BUFFER else cuda_ipc.open_buffer(layout, memory)
        return Buffer(None, device), Opening.OPENED
    except (cuda_memory.CudaError, RuntimeError) as error:
        sys.stderr.write(f"evaluation: {op.name} does not work here: {error}\n")
        return host, Opening.REFUSED if host is None else Opening.OPENED
