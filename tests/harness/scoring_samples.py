"""Logits, targets and byte counts to score; needs numpy alone, as the GPU tests on a bare machine do."""

from __future__ import annotations

import numpy as np

from harness.scoring import TokenBytes

ROWS, LENGTH, VOCAB = 6, 16, 40
BYTES = TokenBytes(
    true=np.array([0, 0, *range(1, VOCAB - 1)], np.int64),
    upstream=np.array([0, 3, *range(2, VOCAB)], np.int64),
)


def sample(seed: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, scale, (ROWS, LENGTH, VOCAB)).astype(np.float32)
    return logits, random.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.uint16)
