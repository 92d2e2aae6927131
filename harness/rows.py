"""Prepared rows on the host: reading row files, a stream of training batches, scored rows in batches of one size.

Covers: the epoch of each training batch, refusing to go past the end, padding the last scored batch so that compiled
models see one shape. Not covered: packing rows (harness.packing), tensors (harness.loader), logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class DataExhausted(Exception):
    """A run has consumed every prepared row; going round would train on the same rows unseen, so it stops here."""


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
    """Rows uint16 [n, T+1] and the epoch of each, int32 [n], handed out in order."""

    def __init__(self, rows: NDArray[np.uint16], epochs: NDArray[np.int32] | None = None) -> None:
        self._rows = rows
        self._epochs = epochs
        self._next = 0

    def take(self, batch_size: int) -> tuple[NDArray[np.uint16], int]:
        """The next `batch_size` rows, a view, and the epoch of the last of them. Raises DataExhausted."""
        first, end = self._next, self._next + batch_size
        if end > len(self._rows):
            tokens = len(self._rows) * (self._rows.shape[1] - 1)
            raise DataExhausted(
                f"the prepared data is used up: {first} of {len(self._rows)} rows ({tokens:,} tokens) were served and "
                f"{batch_size} more were asked for; raise train_tokens in the contract and prepare again"
            )
        self._next = end
        return self._rows[first:end], 1 if self._epochs is None else int(self._epochs[end - 1])


def as_int16(rows: NDArray[np.uint16]) -> NDArray[np.int16]:
    """The same bits as signed numbers: torch copies and widens those on any device, unsigned ones it hardly knows."""
    return rows.view(np.int16)
