"""From logits and targets to bits per byte, for numpy arrays and torch tensors.

Log-sum-exp in float32, sums in float64. Targets that stand for no bytes (special tokens) count in neither sum, as in
evaluate_bpb of https://github.com/karpathy/autoresearch (prepare.py). Needs torch for tensors alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.cache import Cache

if TYPE_CHECKING:
    import torch

# A negative log likelihood below zero is impossible but for rounding of the log-sum-exp.
_NLL_FLOOR = -1e-3


class NonFinite(Exception):
    """The logits of a scored row hold NaN or infinity where a probability is needed."""


class ImpossibleLikelihood(Exception):
    """A probability above one: the reduction itself is at fault, not the model."""


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """Bytes of text each token stands for, int64 [V]: true ones, and counted upstream's way."""

    true: NDArray[np.int64]
    upstream: NDArray[np.int64]

    @classmethod
    def load(cls, cache: Cache) -> TokenBytes:
        return cls.parse(cache.token_bytes_path.read_bytes(), cache.token_bytes_upstream_path.read_bytes())

    @classmethod
    def parse(cls, true: bytes, upstream: bytes) -> TokenBytes:
        """From the content of the two .npy files."""
        return cls(*(np.load(io.BytesIO(table), allow_pickle=False).astype(np.int64) for table in (true, upstream)))


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over scored targets: nats and bytes, by both byte counts; adds up slice by slice."""

    nats: float = 0.0
    bytes: int = 0
    tokens: int = 0
    nats_upstream: float = 0.0
    bytes_upstream: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.nats + other.nats,
            self.bytes + other.bytes,
            self.tokens + other.tokens,
            self.nats_upstream + other.nats_upstream,
            self.bytes_upstream + other.bytes_upstream,
        )

    def score(self) -> Score:
        """Nats per byte over ln 2. Raises ValueError when no target stands for any byte."""
        if self.bytes <= 0 or self.bytes_upstream <= 0:
            raise ValueError("the validation rows stand for no bytes at all")
        return Score(
            self.nats / (math.log(2) * self.bytes),
            self.nats_upstream / (math.log(2) * self.bytes_upstream),
            self.nats / self.tokens,
        )


@dataclass(frozen=True, slots=True)
class Score:
    """What a model is worth on the validation rows."""

    val_bpb: float
    val_bpb_upstream: float
    nats_per_token: float


def log_probabilities(logits: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """log softmax(logits)[ids] [T, E] for float32 logits [T, V] and token ids [T, E]. Raises NonFinite.

    -inf on tokens that a model rules out is legitimate.
    """
    largest = logits.max(axis=-1)
    if not np.isfinite(largest).all():
        raise NonFinite("logits hold NaN or infinity")
    shifted = logits - largest[:, None]
    chosen: NDArray[np.float32] = np.take_along_axis(shifted, ids, axis=-1)
    np.exp(shifted, out=shifted)
    chosen -= np.log(shifted.sum(axis=-1, dtype=np.float32))[:, None]
    return chosen


def log_probabilities_of_tensor(logits: torch.Tensor, ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """`log_probabilities` of rows of logits [rows, T, V] on any device, reduced where they lie; NaN is not refused."""
    import torch

    # A row at a time: the temporaries of a log-sum-exp over a whole slice would be as large as the slice.
    parts = []
    for row, row_ids in zip(logits, ids, strict=True):
        row_logits = row.float()
        chosen = row_logits.gather(-1, torch.from_numpy(row_ids).to(logits.device))
        parts.append((chosen - row_logits.logsumexp(dim=-1, keepdim=True)).reshape(-1))
    flat = torch.cat(parts).cpu().numpy()
    ends = np.cumsum([row_ids.size for row_ids in ids])[:-1]
    return [part.reshape(row_ids.shape) for part, row_ids in zip(np.split(flat, ends), ids, strict=True)]


def token_nll(logits: NDArray[np.float32], targets: NDArray[np.integer]) -> NDArray[np.float32]:
    """-log softmax(logits)[target] for float32 logits [T, V] and targets [T]. Raises NonFinite."""
    return checked_nll(-log_probabilities(logits, targets.astype(np.int64)[:, None])[:, 0])


def checked_nll(nll: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same values, if they can be likelihoods. Raises NonFinite, ImpossibleLikelihood."""
    if not np.isfinite(nll).all():
        raise NonFinite("the logits hold NaN, or give a target no probability at all")
    if nll.size and nll.min() < _NLL_FLOOR:
        raise ImpossibleLikelihood(f"negative log likelihood {nll.min():.4g} nats")
    return nll


def tally(nll: NDArray[np.floating], targets: NDArray[np.integer], token_bytes: TokenBytes) -> Tally:
    """Sum per-token nats [...] and the bytes of their targets [...]."""
    nats = nll.astype(np.float64)
    true, upstream = token_bytes.true[targets], token_bytes.upstream[targets]
    return Tally(
        float(nats[true > 0].sum()),
        int(true.sum()),
        int((true > 0).sum()),
        float(nats[upstream > 0].sum()),
        int(upstream.sum()),
    )


def tally_logits(logits: NDArray[np.float32], targets: NDArray[np.integer], token_bytes: TokenBytes) -> Tally:
    """Tally of logits [rows, T, V] against targets [rows, T], a row at a time so that temporaries stay in the cache."""
    total = Tally()
    for row_logits, row_targets in zip(logits, targets, strict=True):
        total += tally(token_nll(row_logits, row_targets), row_targets, token_bytes)
    return total


def tally_tensor(logits: torch.Tensor, targets: NDArray[np.uint16], token_bytes: TokenBytes) -> Tally:
    """As `tally_logits`, for logits on any device, reduced where they lie. Raises NonFinite, ImpossibleLikelihood."""
    rows = log_probabilities_of_tensor(logits, [row[:, None] for row in targets.astype(np.int64)])
    return tally(checked_nll(-np.stack(rows)[:, :, 0]), targets, token_bytes)
