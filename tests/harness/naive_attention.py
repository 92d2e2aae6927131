"""Causal windowed attention written out position by position: slow, obvious, shared by the attention tests."""

from __future__ import annotations

import torch
from torch import Tensor


def naive_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """q [B, T, H, D], k and v [B, T, Hkv, D] -> [B, T, H, D]; position i sees j when 0 <= i - j <= window."""
    group = q.size(2) // k.size(2)
    rows = []
    for i in range(q.size(1)):
        first = max(0, i - window)
        keys = k[:, first : i + 1].repeat_interleave(group, dim=2)
        values = v[:, first : i + 1].repeat_interleave(group, dim=2)
        scores = torch.einsum("bhd,bjhd->bhj", q[:, i], keys) / q.size(-1) ** 0.5
        rows.append(torch.einsum("bhj,bjhd->bhd", scores.softmax(-1), values))
    return torch.stack(rows, dim=1)
