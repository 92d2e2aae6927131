"""Causal attention with a sliding window, four ways, all with flash attention's meaning of window (W, 0).

Each maker takes (window, sequence_length, device) and returns `attend(q, k, v)`: q [B, T, H, D], k and v [B, T, Hkv, D]
with H a multiple of Hkv, result [B, T, H, D]; position i sees j when 0 <= i - j <= window. Covers: Flash Attention 3,
torch's own Flash Attention 2, FlexAttention, scaled_dot_product_attention. Not covered: which one to use
(harness.attention). All but sdpa compute in bf16 whatever they are given; sdpa keeps the dtype of its inputs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def sdpa(window: int, sequence_length: int, device: str) -> Attend:
    """scaled_dot_product_attention: a mask only where the window is shorter than the sequence."""
    mask = None if window >= sequence_length - 1 else _window_mask(window, sequence_length, device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.size(1)
        options: dict[str, Any] = {"is_causal": True} if mask is None else {"attn_mask": mask[:length, :length]}
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.size(1) != k.size(1), **options).transpose(1, 2)

    return attend


def _window_mask(window: int, sequence_length: int, device: str) -> Tensor:
    """Boolean [T, T], True where row i may see column j."""
    position = torch.arange(sequence_length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance <= window)


def fa3(window: int, sequence_length: int, device: str) -> Attend:
    """Flash Attention 3 from the prefetched kernel (Hopper). Raises what loading it raises."""
    from harness.attention import load_fa3

    flash_attn_func = load_fa3().flash_attn_func

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = flash_attn_func(*_bf16(q, k, v), causal=True, window_size=(window, 0))
        # Older builds return (out, logsumexp), newer ones out alone.
        out: Tensor = y[0] if isinstance(y, tuple | list) else y
        return out

    return attend


def has_windowed_varlen() -> bool:
    """Whether torch's own Flash Attention 2 takes windows: by signature, since releases differ."""
    return "window_size" in _varlen_options()


def _varlen_options() -> frozenset[str]:
    """Parameter names of torch.nn.attention.varlen.varlen_attn; empty where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def fa2(window: int, sequence_length: int, device: str) -> Attend:
    """Flash Attention 2 as torch ships it: B sequences of equal length laid end to end."""
    from torch.nn.attention.varlen import varlen_attn

    groups_heads = "enable_gqa" in _varlen_options()  # torch 2.11 has windows and no grouped heads

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, length, heads, _ = q.shape
        starts = torch.arange(0, (rows + 1) * length, length, dtype=torch.int32, device=q.device)
        options: dict[str, Any] = {"window_size": (window, 0)}
        if heads != k.size(2):
            if groups_heads:
                options["enable_gqa"] = True
            else:
                k, v = (x.repeat_interleave(heads // x.size(2), dim=2) for x in (k, v))
        flat = (x.flatten(0, 1) for x in _bf16(q, k, v))
        return varlen_attn(*flat, starts, starts, length, length, **options).view(q.shape)

    return attend


def flex(window: int, sequence_length: int, device: str) -> Attend:
    """FlexAttention with a block-sparse mask, for exactly this sequence length; CUDA only (no backward on CPU)."""
    block_mask, compiled = _block_mask(window, sequence_length, device), _compiled_flex()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in _bf16(q, k, v))
        y: Tensor = compiled(q, k, v, block_mask=block_mask, enable_gqa=q.size(1) != k.size(1))
        return y.transpose(1, 2)

    return attend


@functools.cache
def _block_mask(window: int, sequence_length: int, device: str) -> Any:
    """One mask for all layers of a window: torch.compile specialises on each mask, and gives up after eight."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j <= window)

    return create_block_mask(visible, None, None, sequence_length, sequence_length, device=device)


@functools.cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _bf16(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.to(torch.bfloat16) for x in tensors)


KERNELS: dict[str, Callable[[int, int, str], Attend]] = {"fa3": fa3, "fa2": fa2, "flex": flex, "sdpa": sdpa}
