"""Best-fit packing of documents into rows of one length, decided from the documents' lengths alone.

Covers: which document goes where (plan_rows), and copying tokens accordingly (gather_rows). The rule is that of
https://github.com/karpathy/autoresearch (prepare.py, make_dataloader): before every placement the buffer is filled up
by whole refills; the longest document that fits the rest of the row is placed, the earliest one of that length; when
none fits, the shortest one, the earliest of them, is cropped to fill the row, and its tail is dropped. Since every row
comes out full, the row file is the concatenation of document beginnings in the order of their placement, and the
batch size has no influence. Not covered: tokenising, files.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS_PER_REPORT = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """`documents` int64 [p] and `takes` int32 [p]: the p placements, document by document, tokens taken of each.

    `row_epochs` int32 [n]: the epoch (from 1) of the last refill before a row was full.
    """

    documents: NDArray[np.int64]
    takes: NDArray[np.int32]
    row_epochs: NDArray[np.int32]


class DocumentBuffer:
    """Documents waiting for a place: a queue per length, and one big integer whose set bits are the lengths in use.

    The longest that fits is the highest set bit below a mask, the shortest is the lowest set bit: both cost the same
    few dozen nanoseconds however many documents wait.
    """

    def __init__(self, capacity: int) -> None:
        self._queues: list[deque[int]] = [deque() for _ in range(capacity + 1)]
        self._lengths = 0
        self._fits = [(2 << room) - 1 for room in range(capacity + 1)]
        self._oversized: list[tuple[int, int, int]] = []  # heap of (length, arrival, document)
        self._arrivals = 0
        self.waiting = 0

    def add(self, document: int, length: int) -> None:
        """Let a document of `length` >= 1 tokens wait; among equals, first come is first served."""
        self.waiting += 1
        self._arrivals += 1
        if length < len(self._queues):
            self._queues[length].append(document)
            self._lengths |= 1 << length
        else:
            heapq.heappush(self._oversized, (length, self._arrivals, document))

    def place(self, room: int) -> tuple[int, int]:
        """(document, tokens to take) for the next place in a row with `room` tokens left."""
        self.waiting -= 1
        fitting = self._lengths & self._fits[room]
        if fitting:
            length = fitting.bit_length() - 1
            return self._pop(length), length
        if self._lengths:
            return self._pop((self._lengths & -self._lengths).bit_length() - 1), room
        return heapq.heappop(self._oversized)[2], room

    def _pop(self, length: int) -> int:
        queue = self._queues[length]
        document = queue.popleft()
        if not queue:
            self._lengths ^= 1 << length
        return document


def plan_rows(
    lengths: NDArray[np.int32],
    refills: NDArray[np.int32],
    rows: int,
    row_tokens: int,
    buffer_documents: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Plan `rows` rows of `row_tokens` tokens, going through the corpus as often as it takes.

    `lengths` [d]: tokens of each document, at least 1, its leading special token included. `refills`: documents that
    enter the buffer at a time, in order, one epoch's worth (they sum to d). `report(done, total)` is called now and
    then. Raises ValueError for an empty corpus or refills that do not sum to it.
    """
    if not len(lengths) or int(refills.sum()) != len(lengths) or int(lengths.min()) < 1:
        raise ValueError("the corpus is empty, or its refills do not cover it")
    packer = _Packer(lengths, refills, row_tokens, buffer_documents)
    epochs = array("i")
    for row in range(rows):
        epochs.append(packer.pack_row())
        if row % _ROWS_PER_REPORT == 0:
            report(row, rows)
    return Plan(
        np.asarray(packer.documents, np.int64), np.asarray(packer.takes, np.int32), np.asarray(epochs, np.int32)
    )


class _Packer:
    """Places documents row by row; `documents` and `takes` collect the placements."""

    def __init__(
        self, lengths: NDArray[np.int32], refills: NDArray[np.int32], row_tokens: int, buffer_documents: int
    ) -> None:
        self._coming = _endless_refills(lengths, refills)
        self._buffer = DocumentBuffer(row_tokens)
        self._row_tokens, self._buffer_documents, self._epoch = row_tokens, buffer_documents, 1
        self.documents, self.takes = array("q"), array("i")

    def pack_row(self) -> int:
        """Fill one more row; returns the epoch of the last refill by then."""
        room = self._row_tokens
        while room:
            while self._buffer.waiting < self._buffer_documents:
                self._refill()
            document, taken = self._buffer.place(room)
            self.documents.append(document)
            self.takes.append(taken)
            room -= taken
        return self._epoch

    def _refill(self) -> None:
        self._epoch, batch = next(self._coming)
        for document, length in batch:
            self._buffer.add(document, length)


def _endless_refills(
    lengths: NDArray[np.int32], refills: NDArray[np.int32]
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """(epoch, [(document, length), …]) for every refill, epoch after epoch."""
    numbered = list(enumerate(lengths.tolist()))
    ends = np.cumsum(refills).tolist()
    epoch = 1
    while True:
        for first, end in zip([0, *ends], ends, strict=False):
            yield epoch, numbered[first:end]
        epoch += 1


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Tokens of many documents: `shards` of uint16 [tokens], cut into documents by `lengths` int32 [d], in order.

    Arrays may be memory maps. `shard_documents` holds the number of documents of each shard.
    """

    shards: Sequence[NDArray[np.uint16]]
    lengths: NDArray[np.int32]
    shard_documents: Sequence[int]

    def locate(self, documents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(shard, first token within it) of each document."""
        ends = np.cumsum(self.shard_documents)
        shard = np.searchsorted(ends, documents, side="right").astype(np.int64)
        starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        shard_starts = np.concatenate([[0], np.cumsum([len(tokens) for tokens in self.shards])])
        return shard, starts[documents] - shard_starts[shard]


def gather_rows(plan: Plan, store: TokenStore, chunk_tokens: int) -> Iterator[NDArray[np.uint16]]:
    """The planned rows' tokens, end to end, in arrays of up to about `chunk_tokens` tokens (one reused buffer)."""
    shards, starts = store.locate(plan.documents)
    ends = np.cumsum(plan.takes, dtype=np.int64)
    largest = int(plan.takes.max(initial=0))
    out = np.empty(chunk_tokens + largest, dtype=np.uint16)
    first = 0
    while first < len(ends):
        done = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, done + chunk_tokens, side="left")) + 1
        position = 0
        for shard, start, take in zip(
            shards[first:last].tolist(), starts[first:last].tolist(), plan.takes[first:last].tolist(), strict=True
        ):
            out[position : position + take] = store.shards[shard][start : start + take]
            position += take
        yield out[:position]
        first = last
