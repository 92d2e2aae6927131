"""What judge and candidate exchange: 24-byte messages over a SOCK_SEQPACKET socket, and the layout of shared memory.

No pickle, no strings, no variable lengths; receiving checks length, truncation, operation and smuggled descriptors.
Which message is allowed when: harness.judge.protocol_session.
"""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

JUDGE_FD_ENV = "ARSCHED_JUDGE_FD"
ATTENTION_NAMES = ("fa3", "fa2", "flex", "sdpa")  # sent as an index
# Transports of logits, best first; a result names the one its evaluation used.
EXCHANGE_NAMES = ("cuda-ipc", "cuda-fd", "pinned", "host")
CUDA_HANDLE_BYTES = 64  # cudaIpcMemHandle_t
BATCH_SIZE_LIMIT = 1 << 31
_VERSION = 1
_STRUCT = struct.Struct("<HHIqd")
MESSAGE_BYTES = _STRUCT.size
_MAX_FDS = 4
_LOGIT_BYTES = 4


class Op(enum.IntEnum):
    """What a message means; below 16 the candidate sends it, from 16 on the judge."""

    HELLO = 1  # imports are done
    WARMING = 2  # random tokens asked for: compiling
    START = 3  # training rows asked for
    STEP = 4  # count=step, integer=tokens so far, real=loss
    ATTENTION = 5  # count=index into ATTENTION_NAMES
    MEMORY = 6  # real=peak MiB
    EVAL = 7  # integer=batch size
    READY = 8  # count: what became of the buffer offered, see Opening
    DONE = 9  # count=number of the slice now in the buffer
    MFU = 10  # real=share of the device's peak FLOP/s that training used
    ROOM = 11  # after EVAL: device memory that the model does not need is free, a buffer may be offered
    # Answer to START: descriptors of rows, epochs, under a work clock of a harness.work_page;
    # count=row to begin at, integer=rows, real=budget seconds used already.
    ROWS = 16
    HOST_BUFFER = 17  # answer to ROOM: descriptor; count=rows of a forward, integer=rows of a slice
    IPC_BUFFER = 18  # the same, logits in a CUDA IPC allocation whose handle lies behind the token rows
    FD_BUFFER = 19  # the same, logits in a CUDA allocation that a second descriptor names
    PINNED_BUFFER = 20  # as HOST_BUFFER; the logits may be page-locked for faster copies
    BATCH = 21  # count=number of the next slice; a fresh forward begins here
    SLICE = 22  # count=number of the next slice of the same forward
    END = 23  # real=val_bpb


class Opening(enum.IntEnum):
    """The count of READY."""

    REFUSED = 0  # cannot be opened here: offer another
    OPENED = 1
    PINNED = 2  # opened and page-locked; affects nothing but the name in the result


@dataclass(frozen=True, slots=True)
class Message:
    """One message; unused fields are zero."""

    op: Op
    count: int = 0
    integer: int = 0
    real: float = 0.0

    def pack(self) -> bytes:
        return _STRUCT.pack(self.op, _VERSION, self.count, self.integer, self.real)


class ProtocolError(Exception):
    """The peer sent something that is not a message, or not the one that was due."""


class Closed(Exception):
    """The peer is gone."""


def unpack(data: bytes) -> Message:
    """Parse exactly one message. Raises ProtocolError for any other length, version or operation."""
    if len(data) != MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes (messages have {MESSAGE_BYTES})")
    op, version, count, integer, real = _STRUCT.unpack(data)
    if version != _VERSION:
        raise ProtocolError(f"protocol version {version} (this side speaks {_VERSION})")
    try:
        return Message(Op(op), count, integer, real)
    except ValueError:
        raise ProtocolError(f"unknown operation {op}") from None


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """(judge's end, candidate's end), packet boundaries kept by the kernel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Send one message whole. Raises Closed when the peer is gone, ProtocolError when it does not read what is sent."""
    try:
        socket.send_fds(sock, [message.pack()], fds)
    except (BrokenPipeError, ConnectionResetError):
        raise Closed("the other side is gone") from None
    except BlockingIOError:
        raise ProtocolError("messages pile up unread") from None


def receive(sock: socket.socket) -> Message:
    """Receive one message that carries no descriptors. Raises Closed, ProtocolError, BlockingIOError."""
    return _receive(sock, most_fds=0)[0]


def receive_with_fds(sock: socket.socket) -> tuple[Message, tuple[int, ...]]:
    """Receive one message and its descriptors, which the caller closes; the candidate's side only."""
    return _receive(sock, _MAX_FDS)


def _receive(sock: socket.socket, most_fds: int) -> tuple[Message, tuple[int, ...]]:
    data, fds, flags, _ = _read_packet(sock, most_fds)
    try:
        return _checked(data, flags), tuple(fds)
    except (Closed, ProtocolError):
        for fd in fds:
            os.close(fd)
        raise


def _read_packet(sock: socket.socket, most_fds: int) -> tuple[bytes, list[int], int, Any]:
    # A peer that went without reading all we sent: the kernel says so once, ahead of what the peer itself had sent.
    for _ in range(2):
        with contextlib.suppress(ConnectionResetError):
            return socket.recv_fds(sock, MESSAGE_BYTES, most_fds)
    raise Closed("the other side is gone")


def _checked(data: bytes, flags: int) -> Message:
    # The kernel cuts an oversize packet silently: the flag is the only trace. With no room for descriptors it closes
    # smuggled ones itself and sets MSG_CTRUNC.
    if flags & socket.MSG_TRUNC:
        raise ProtocolError(f"a message longer than {MESSAGE_BYTES} bytes")
    if flags & socket.MSG_CTRUNC:
        raise ProtocolError("a message that carries descriptors")
    if not data:
        raise Closed("the other side is gone")
    return unpack(data)


@dataclass(frozen=True, slots=True)
class Layout:
    """The shared memory of one evaluation; both sides compute it from the same numbers.

    Token rows uint16 [forward_rows, T], padded to a page; then either float32 logits [slice_rows, T, V] or, when the
    logits lie on the device, room for a CUDA IPC handle. forward_rows: rows the model sees at once; slice_rows: rows
    whose logits fit into the buffer.
    """

    forward_rows: int
    slice_rows: int
    sequence_length: int
    vocab_size: int

    @property
    def logits_offset(self) -> int:
        tokens = self.forward_rows * self.sequence_length * 2
        return -(-tokens // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def logits_shape(self) -> tuple[int, int, int]:
        return (self.slice_rows, self.sequence_length, self.vocab_size)

    @property
    def logits_bytes(self) -> int:
        return self.slice_rows * self.sequence_length * self.vocab_size * _LOGIT_BYTES

    @property
    def host_bytes(self) -> int:
        return self.logits_offset + self.logits_bytes

    @property
    def device_bytes(self) -> int:
        """Size of the shared memory when the logits live on the device."""
        return self.logits_offset + CUDA_HANDLE_BYTES

    def tokens(self, memory: mmap.mmap) -> NDArray[np.uint16]:
        import numpy as np

        count = self.forward_rows * self.sequence_length
        return np.frombuffer(memory, np.uint16, count).reshape(self.forward_rows, self.sequence_length)

    def host_logits(self, memory: mmap.mmap) -> NDArray[np.float32]:
        import numpy as np

        count = self.logits_bytes // _LOGIT_BYTES
        return np.frombuffer(memory, np.float32, count, self.logits_offset).reshape(self.logits_shape)
