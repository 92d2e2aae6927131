"""Prepared rows as a stream of batches on the host: where the next batch begins, and where the data ends.

Covers: cutting uint16 rows [n, T+1] into batches, the epoch of each, refusing to go past the end. Not covered: opening
row files (harness.session, harness.batches) and tensors (harness.loader).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class DataExhausted(Exception):
    """A run has consumed every prepared row; going round would train on the same rows unseen, so it stops here."""


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
            raise DataExhausted(self._shortage(batch_size))
        self._next = end
        return self._rows[first:end], 1 if self._epochs is None else int(self._epochs[end - 1])

    def _shortage(self, batch_size: int) -> str:
        tokens = len(self._rows) * (self._rows.shape[1] - 1)
        return (
            f"the prepared data is used up: {self._next} of {len(self._rows)} rows ({tokens:,} tokens) were served and "
            f"{batch_size} more were asked for; raise train_tokens in the contract and prepare again"
        )


def as_int16(rows: NDArray[np.uint16]) -> NDArray[np.int16]:
    """The same bits as signed numbers: torch copies and widens those on any device, unsigned ones it hardly knows."""
    return rows.view(np.int16)
