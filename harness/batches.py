"""Cutting scored rows into batches of one size; the judge and an evaluation without a judge cut the same way.

Covers: opening row files, padding the last batch with rows already served, so that compiled models see one shape.
Not covered: what is done with the logits of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """rows uint16 [b, T+1]; the first `valid` of them count, the rest fills the batch up."""

    rows: NDArray[np.uint16]
    valid: int


def read_rows(path: Path, sequence_length: int) -> NDArray[np.uint16]:
    """All rows of a row file, memory-mapped read-only: uint16 [n, T+1]."""
    return np.memmap(path, dtype="<u2", mode="r").reshape(-1, sequence_length + 1)


def padded_batches(rows: NDArray[np.uint16], batch_size: int) -> Iterator[Batch]:
    """Every row once, in order, in batches of min(batch_size, len(rows)) rows."""
    size = min(batch_size, len(rows))
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        missing = size - len(batch)
        yield Batch(np.concatenate([batch, rows[:missing]]) if missing else np.asarray(batch), len(batch))
