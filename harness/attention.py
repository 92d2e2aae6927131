"""Which attention kernel a run uses: the best this device has, the same one through a whole search.

Covers: choosing by the record of this device's trial, loading the prefetched Flash Attention 3 without a network,
telling the judge, and refusing to go on when the judge expects a kernel that is not here (a silent fall-back would be a
slower run and a false score). Not covered: the kernels (harness.attention_kernels), fetching one (harness.prepare),
trying them (harness.gpu_probe).
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import TYPE_CHECKING

from harness.cache import fetched_kernel
from harness.gpu_record import GpuRecord, read_record, shape_of
from harness.session import current

if TYPE_CHECKING:
    from harness.attention_kernels import Attend

FA3_REPOSITORY = "kernels-community/flash-attn3"
FA3_VERSION = 1
EXPECT_ENV = "ARSCHED_EXPECT_ATTENTION"
LOCAL_KERNELS_ENV = "LOCAL_KERNELS"
HOPPER = (9, 0)


def make_attention(window: int, sequence_length: int) -> Attend:
    """Causal attention over at most `window` earlier positions, by this device's best kernel.

    Returns `attend(q, k, v)`: q [B, T, H, D], k and v [B, T, Hkv, D] -> [B, T, H, D], T = sequence_length; position i
    sees j when 0 <= i - j <= window. Raises ValueError for a negative window.
    """
    from harness.accelerator import training_device
    from harness.attention_kernels import KERNELS

    if window < 0:
        raise ValueError(f"window must be at least 0, not {window}")
    return KERNELS[attention_backend()](window, sequence_length, training_device())


@functools.cache
def attention_backend() -> str:
    """ "fa3", "fa2", "flex" or "sdpa": chosen once, and reported to the judge.

    The kernel the judge expects, where this device offers it; else the best one. Raises SystemExit when the judge
    expects one that is not offered: that is a broken node, not a worse candidate.
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
    from harness.accelerator import training_device
    from harness.attention_kernels import has_windowed_varlen

    if training_device() == "cpu":
        return ("sdpa",)
    import torch

    device, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    record = read_record(device, shape_of(current().contract))
    if record is None:
        _say(f"this {device} has not been tried with this torch; best of torch's own (run: arsched prepare)")
        return without_trial(capability, has_windowed_varlen=has_windowed_varlen())
    if capability == HOPPER and "fa3" in record.attention_refused:
        _say(f"no Flash Attention 3, which costs speed: {record.attention_refused['fa3']}")
    return after_trial(record, capability)


def candidates_for(capability: tuple[int, int]) -> tuple[str, ...]:
    """Kernels worth a trial on a CUDA device of this compute capability. Flash kernels and Triton's want sm80."""
    if capability[0] < 8:
        return ("sdpa",)
    return ("fa3", "fa2", "flex", "sdpa") if capability == HOPPER else ("fa2", "flex", "sdpa")


def without_trial(capability: tuple[int, int], *, has_windowed_varlen: bool) -> tuple[str, ...]:
    """Best first, on a CUDA device nobody has tried. Flash Attention 3 may import and then crash: it is not offered."""
    names = [name for name in candidates_for(capability) if name != "fa3"]
    return tuple(name for name in names if name != "fa2" or has_windowed_varlen)


def after_trial(record: GpuRecord, capability: tuple[int, int]) -> tuple[str, ...]:
    """Best first, as the trial of this device found."""
    others = sorted(record.attention_ms, key=lambda name: record.attention_ms[name])
    names = [record.attention, *(name for name in others if name != record.attention)]
    return tuple(name for name in names if name in candidates_for(capability)) or ("sdpa",)


def _say(line: str) -> None:
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
