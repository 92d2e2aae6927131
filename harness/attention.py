"""Causal attention with a sliding window: four kernels, and which of them a run uses, the same through a whole search.

Covers: Flash Attention 3 (prefetched, loaded without a network), torch's own Flash Attention 2, FlexAttention,
scaled_dot_product_attention; choosing by the record of this device's trial, reporting to the judge. Not covered:
fetching a kernel (harness.prepare), trying them (harness.gpu_probe).
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.accelerator import training_device
from harness.cache import FA3_REPOSITORY, FA3_VERSION, LOCAL_KERNELS_ENV, fetched_kernel
from harness.gpu_record import EXPECT_ENV, HOPPER, after_trial, read_record, shape_of, without_trial
from harness.session import current

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_attention(window: int, sequence_length: int) -> Attend:
    """Causal attention over at most `window` earlier positions, by this device's best kernel.

    Returns `attend(q, k, v)`: q [B, T, H, D], k and v [B, T, Hkv, D] -> [B, T, H, D], T = sequence_length; position i
    sees j when 0 <= i - j <= window. Raises ValueError for a negative window.
    """
    if window < 0:
        raise ValueError(f"window must be at least 0, not {window}")
    return KERNELS[attention_backend()](window, sequence_length, training_device())


@functools.cache
def attention_backend() -> str:
    """ "fa3", "fa2", "flex" or "sdpa": chosen once, and reported to the judge.

    The kernel the judge expects, where this device offers it; else the best one. Raises SystemExit when the judge
    expects one that is not offered: that is a broken node, not a worse candidate, and falling back in silence would be
    a slower run and a false score.
    """
    offered = offered_kernels()
    expected = os.environ.get(EXPECT_ENV, offered[0])
    name = expected if expected in offered else offered[0]
    current().report_attention(name)
    if name != expected:
        raise SystemExit(f"error: this search runs on attention {expected!r}, this device offers {', '.join(offered)}")
    return name


def offered_kernels() -> tuple[str, ...]:
    """Kernels of the training device, best first; asks the record of its trial, and prints what that refused."""
    if training_device() == "cpu":
        return ("sdpa",)
    device, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    record = read_record(device, shape_of(current().contract))
    if record is None:
        _print(f"this {device} has not been tried with this torch; best of torch's own (run: arsched prepare)")
        return without_trial(capability, has_windowed_varlen=has_windowed_varlen())
    if capability == HOPPER and "fa3" in record.attention_refused:
        _print(f"no Flash Attention 3, which costs speed: {record.attention_refused['fa3']}")
    return after_trial(record, capability)


def _print(line: str) -> None:
    print(f"attention: {line}", flush=True)  # noqa: T201


@functools.cache
def load_fa3() -> ModuleType:
    """The prefetched Flash Attention 3 interface, with `flash_attn_func`; never touches the network.

    Raises whatever `kernels` raises when the kernel is not there or does not fit this torch, driver or GPU.
    """
    if LOCAL_KERNELS_ENV not in os.environ and (fetched := fetched_kernel()) is not None:  # alone: no judge set it
        os.environ[LOCAL_KERNELS_ENV] = f"{FA3_REPOSITORY}={fetched}"
    os.environ["HF_HUB_OFFLINE"] = "1"
    from kernels import get_kernel

    kernel = get_kernel(FA3_REPOSITORY, version=FA3_VERSION)
    interface: ModuleType = getattr(kernel, "flash_attn_interface", kernel)
    return interface


# The kernels. Each maker takes (window, sequence_length, device) and returns an `attend` as make_attention's, H a
# multiple of Hkv. All but sdpa compute in bf16 whatever they are given; sdpa keeps the dtype of its inputs.


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
