"""Prepared rows on the host: reading row files, a stream of training batches, scored rows in batches of one size.

Covers: where a seed's training begins, the epoch of each training batch, refusing to serve a row twice, padding the
last scored batch so that compiled models see one shape. Not covered: packing rows (harness.packing), tensors
(harness.loader), logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UPSTREAM_ORDER_SEEDS = (1, 42)  # a lab's first run, and `python train.py` by hand


class DataExhausted(Exception):
    """A run has consumed every prepared row; a second round would go unnoticed, so it stops here."""


def first_training_row(seed: int, rows: int) -> int:
    """The row of the training stream that a run begins at, 0 ≤ row < rows; the stream wraps around its end.

    0, upstream's own order, for UPSTREAM_ORDER_SEEDS; else a hash of the seed, so that nothing that a candidate fixes
    for itself makes two runs alike.
    """
    if seed in UPSTREAM_ORDER_SEEDS:
        return 0
    return int.from_bytes(hashlib.sha256(f"training rows of seed {seed}".encode()).digest()[:8], "little") % rows


@dataclass(frozen=True, slots=True)
class Batch:
    """rows uint16 [b, T+1]; the first `valid` of them count, the rest fills the batch up."""

    rows: NDArray[np.uint16]
    valid: int


def read_rows(path: Path, sequence_length: int) -> NDArray[np.uint16]:
    """All rows of a row file, memory-mapped read-only: uint16 [n, T+1]."""
    return np.memmap(path, dtype="<u2", mode="r").reshape(-1, sequence_length + 1)


def padded_batches(rows: NDArray[np.uint16], batch_size: int) -> Iterator[Batch]:
    """Every row once, in order, in batches of min(batch_size, len(rows)) rows; judge and candidate cut the same way."""
    size = min(batch_size, len(rows))
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        missing = size - len(batch)
        yield Batch(np.concatenate([batch, rows[:missing]]) if missing else np.asarray(batch), len(batch))


class RowStream:
    """Rows uint16 [n, T+1] and the epoch of each, int32 [n], handed out in order from `first` on, past the end to 0."""

    def __init__(self, rows: NDArray[np.uint16], epochs: NDArray[np.int32] | None = None, first: int = 0) -> None:
        self._rows = rows
        self._epochs = epochs
        self._first = first
        self._served = 0

    def take(self, batch_size: int) -> tuple[NDArray[np.uint16], int]:
        """The next `batch_size` rows and the epoch of the last of them. Raises DataExhausted.

        The rows are a view, and a copy where the stream wraps around.
        """
        rows, served = len(self._rows), self._served
        if served + batch_size > rows:
            tokens = rows * (self._rows.shape[1] - 1)
            raise DataExhausted(
                f"the prepared data is used up: {served} of {rows} rows ({tokens:,} tokens) were served and "
                f"{batch_size} more were asked for; raise train_tokens in the contract and prepare again"
            )
        self._served += batch_size
        first = (self._first + served) % rows
        end = first + batch_size
        taken = self._rows[first:end]
        if end > rows:
            taken = np.concatenate([taken, self._rows[: end - rows]])
        return taken, 1 if self._epochs is None else int(self._epochs[(end - 1) % rows])


def as_int16(rows: NDArray[np.uint16]) -> NDArray[np.int16]:
    """The same bits as signed numbers: torch copies and widens those on any device, unsigned ones it hardly knows."""
    return rows.view(np.int16)
