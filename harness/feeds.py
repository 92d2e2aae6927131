"""From rows on the host to token tensors on the training device, without a race and without a stall.

Covers: widening on a CPU; on CUDA a ring of pinned slots, each guarded by an event, 16-bit copies widened there. Not
covered: which rows come next (harness.rows, harness.loader).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from harness.rows import as_int16

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
    """Hands each batch to the next slot of a ring.

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
