"""The arithmetic of harness.scoring on tensors: log-sum-exp in float32 where logits live, sums in float64 on the host.

Covers: scoring logits without moving them (some gigabytes a second pass through here on a GPU). Runs on any torch
device, so that it can be held against the numpy version without a GPU. Not covered: where the logits come from.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from harness.scoring import Tally, TokenBytes, checked_nll, tally


def tally_tensor(logits: torch.Tensor, targets: NDArray[np.uint16], token_bytes: TokenBytes) -> Tally:
    """Tally of logits [rows, T, V] on any device against targets [rows, T]. Raises scoring.NonFinite."""
    chosen = torch.from_numpy(targets.astype(np.int64)).to(logits.device)
    # A row at a time: the temporaries of a log-sum-exp over a whole slice would be as large as the slice.
    rows = [_row_nll(row, row_targets) for row, row_targets in zip(logits, chosen, strict=True)]
    return tally(checked_nll(torch.stack(rows).cpu().numpy()), targets, token_bytes)


def _row_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits.float()
    return torch.logsumexp(logits, dim=-1) - logits.gather(-1, targets[:, None])[:, 0]
