"""The batches train.py trains on: prepared rows, in one order that each seed enters at another row, on its device.

Covers: `make_dataloader` (the name and call of https://github.com/karpathy/autoresearch) and `warmup_batches`. The
batches are bit-identical to best-fit packing on the fly and cost next to nothing: widened on a CPU; on CUDA through a
ring of pinned slots, each guarded by an event, as 16-bit copies that are widened there. Not covered: packing
(harness.packing), validation under a judge, who alone owns those rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from harness.accelerator import training_device
from harness.rows import DataExhausted, RowStream, as_int16, read_rows
from harness.session import Session, SessionError, current
from harness.tokenizer import Tokenizer

__all__ = ["DataExhausted", "make_dataloader", "warmup_batches"]

EpochBatch = tuple[torch.Tensor, torch.Tensor, int]


def make_dataloader(tokenizer: Tokenizer, B: int, T: int, split: str) -> Iterator[EpochBatch]:
    """Batches (x int64 [B, T], y int64 [B, T], epoch) on the contract's device; y is x one token later.

    The first `next()` on split "train" starts the budget clock. `tokenizer` is what the rows were made with; it is not
    needed. Raises SessionError for another T than the contract's, or for split "val" under a judge; the iterator
    raises DataExhausted when the prepared rows are used up.
    """
    session = current()
    _check_shape(session, B, T)
    if split == "train":
        return _train_batches(session, B)
    if split != "val":
        raise SessionError(f'split is {split!r}; there are "train" and "val"')
    if session.judged:
        raise SessionError('split "val" belongs to the judge: call evaluate_bpb(model, tokenizer, batch_size) instead')
    return _val_batches(session, B)


def warmup_batches(B: int, T: int, n: int) -> Iterator[Batch]:
    """`n` batches (x, y) of random tokens, alike in shape, type and device to those of make_dataloader.

    For compiling before the clock starts: nothing can be learned from them. Raises SessionError for another T than the
    contract's; the iterator raises it once training has begun.
    """
    session = current()
    _check_shape(session, B, T)
    return _random_batches(session, B, n)


def _check_shape(session: Session, batch_size: int, sequence_length: int) -> None:
    if sequence_length != session.contract.sequence_length:
        raise SessionError(
            f"T is {sequence_length}; rows of contract {session.contract.name!r} are "
            f"{session.contract.sequence_length} tokens long (use MAX_SEQ_LEN)"
        )
    if batch_size < 1:
        raise SessionError(f"B is {batch_size}; a batch has at least one row")


def _feed(session: Session, batch_size: int) -> Feed:
    contract = session.contract
    return feed_for(training_device(), batch_size, contract.sequence_length + 1, contract.vocab_size)


def _train_batches(session: Session, batch_size: int) -> Iterator[EpochBatch]:
    feed = _feed(session, batch_size)
    stream = RowStream(*session.open_train_rows(), session.first_row)
    yield from _stream_batches(stream, feed, batch_size)


def _val_batches(session: Session, batch_size: int) -> Iterator[EpochBatch]:
    path, length = session.cache.val_rows_path, session.contract.sequence_length
    if training_device() == "cpu":
        return _stream_batches(RowStream(read_rows(path, length)), _feed(session, batch_size), batch_size)
    return _resident_batches(_resident_rows(path, length, training_device()), session.contract.vocab_size, batch_size)


def _stream_batches(stream: RowStream, feed: Feed, batch_size: int) -> Iterator[EpochBatch]:
    while True:
        rows, epoch = stream.take(batch_size)
        x, y = feed(rows)
        yield x, y, epoch


def _resident_batches(rows: torch.Tensor, vocab_size: int, batch_size: int) -> Iterator[EpochBatch]:
    for first in range(0, len(rows) - batch_size + 1, batch_size):
        x, y = widen(rows[first : first + batch_size], vocab_size)
        yield x, y, 1
    raise DataExhausted(f"all {len(rows)} validation rows were served")


@functools.cache
def _resident_rows(path: Path, sequence_length: int, device: str) -> torch.Tensor:
    """Validation rows int16 [n, T+1], kept on the device: 42 MB for the standard contract, copied once."""
    return torch.from_numpy(np.array(as_int16(read_rows(path, sequence_length)))).to(device)


def _random_batches(session: Session, batch_size: int, batches: int) -> Iterator[Batch]:
    contract = session.contract
    shape = (batch_size, contract.sequence_length + 1)
    random = np.random.default_rng(session.seed)
    feed = _feed(session, batch_size)
    for _ in range(batches):
        session.warming()
        yield feed(random.integers(contract.vocab_size, size=shape, dtype=np.uint16))


RING_SLOTS = 4
_LARGEST_INT16 = 32_768

Batch = tuple[torch.Tensor, torch.Tensor]
Feed = Callable[[NDArray[np.uint16]], Batch]  # rows uint16 [B, T+1] -> x, y int64 [B, T], contiguous, on the device


def feed_for(device: str, batch_size: int, row_tokens: int, vocab_size: int) -> Feed:
    """The feed of a device ("cpu" or "cuda") for batches of one shape."""
    if device == "cpu":
        return widen_on_host
    return RingFeed([PinnedSlot(batch_size, row_tokens, device) for _ in range(RING_SLOTS)], vocab_size)


def widen_on_host(rows: NDArray[np.uint16]) -> Batch:
    """Fresh int64 tensors on the CPU."""
    return torch.from_numpy(rows[:, :-1].astype(np.int64)), torch.from_numpy(rows[:, 1:].astype(np.int64))


class RingFeed:
    """Passes each batch to the next slot of a ring.

    Why a ring: a copy from pinned memory is only queued behind the work of earlier batches, and a host that has queued
    it is free to fill the same memory again. With gradient accumulation it does, and batch k is overwritten before it
    was read. A slot is filled again only after the event recorded behind its copy has passed.
    """

    def __init__(self, slots: Sequence[PinnedSlot], vocab_size: int) -> None:
        self._slots = slots
        self._vocab_size = vocab_size
        self._turn = 0

    def __call__(self, rows: NDArray[np.uint16]) -> Batch:
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        slot.wait()
        slot.fill(rows)
        return widen(slot.send(), self._vocab_size)


class PinnedSlot:
    """Page-locked memory for int16 [B, T+1], and the event behind its last copy."""

    def __init__(self, batch_size: int, row_tokens: int, device: str) -> None:
        self._device = device
        self._pinned = torch.empty((batch_size, row_tokens), dtype=torch.int16, pin_memory=True)
        self._host = self._pinned.numpy()
        self._copied = torch.cuda.Event(blocking=True)

    def wait(self) -> None:
        """Return once the last copy has been read from it."""
        self._copied.synchronize()

    def fill(self, rows: NDArray[np.uint16]) -> None:
        np.copyto(self._host, as_int16(rows))

    def send(self) -> torch.Tensor:
        """Queue the copy; returns the 16-bit rows [B, T+1] on the device."""
        # A fresh tensor of the caching allocator: stream order keeps its memory until the widening has read it.
        on_device = self._pinned.to(self._device, non_blocking=True)
        self._copied.record()
        return on_device


def widen(rows: torch.Tensor, vocab_size: int) -> Batch:
    """int16 bits [B, T+1] to x, y int64 [B, T], contiguous, on the same device."""
    return _widen_part(rows[:, :-1], vocab_size), _widen_part(rows[:, 1:], vocab_size)


def _widen_part(part: torch.Tensor, vocab_size: int) -> torch.Tensor:
    wide = torch.empty(part.shape, dtype=torch.int64, device=part.device)
    wide.copy_(part)
    # Beyond 32767 the sign bit is a bit of the token.
    return wide.bitwise_and_(0xFFFF) if vocab_size > _LARGEST_INT16 else wide
