"""Which attention kernel a run uses: the best this device has, the same one through a whole search.

Covers: choosing by capability, loading the prefetched Flash Attention 3 without a network, telling the judge, and
refusing to go on when the judge expects another kernel (a silent fall-back would be a slower run and a false score).
Not covered: the kernels themselves (harness.attention_kernels) and fetching (harness.prepare).
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import TYPE_CHECKING

from harness.cache import CacheError, open_cache
from harness.session import current

if TYPE_CHECKING:
    from harness.attention_kernels import Attend

FA3_REPOSITORY = "kernels-community/flash-attn3"
FA3_VERSION = 1
EXPECT_ENV = "ARSCHED_EXPECT_ATTENTION"
LOCAL_KERNELS_ENV = "LOCAL_KERNELS"
_HOPPER = (9, 0)


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

    Raises SystemExit when the judge expects another one: that is a broken node, not a worse candidate.
    """
    name = best_backend()
    current().report_attention(name)
    expected = os.environ.get(EXPECT_ENV, name)
    if name != expected:
        raise SystemExit(f"error: this search runs on attention {expected!r}, this device offers {name!r}")
    return name


def best_backend() -> str:
    """The best kernel of this device, found by trying; asks nobody and tells nobody."""
    from harness.accelerator import training_device
    from harness.attention_kernels import has_windowed_varlen

    if training_device() == "cpu":
        return "sdpa"
    import torch

    capability = torch.cuda.get_device_capability()
    return choose(capability, has_fa3=capability == _HOPPER and _fa3_loads(), has_windowed_varlen=has_windowed_varlen())


def choose(capability: tuple[int, int], *, has_fa3: bool, has_windowed_varlen: bool) -> str:
    """The rule for a CUDA device of this compute capability. Flash kernels and Triton's want sm80 or newer."""
    if capability == _HOPPER and has_fa3:
        return "fa3"
    if capability[0] < 8:
        return "sdpa"
    return "fa2" if has_windowed_varlen else "flex"


def _fa3_loads() -> bool:
    """True when the kernel imports; what went wrong is printed, because falling back costs speed."""
    try:
        load_fa3()
    except Exception as problem:  # `kernels` raises many kinds: not there, wrong build, wrong architecture
        print(f"attention: no Flash Attention 3 ({type(problem).__name__}: {problem})", flush=True)  # noqa: T201
        return False
    return True


@functools.cache
def load_fa3() -> ModuleType:
    """The prefetched Flash Attention 3 interface, with `flash_attn_func`; never touches the network.

    Raises whatever `kernels` raises when the kernel is not there or does not fit this torch, driver or GPU.
    """
    _point_at_prefetched_kernel()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from kernels import get_kernel

    kernel = get_kernel(FA3_REPOSITORY, version=FA3_VERSION)
    interface: ModuleType = getattr(kernel, "flash_attn_interface", kernel)
    return interface


def _point_at_prefetched_kernel() -> None:
    """The judge sets LOCAL_KERNELS; alone, the cache says where `prepare` put the kernel."""
    if LOCAL_KERNELS_ENV in os.environ:
        return
    try:
        kernel_dir = open_cache(current().contract).kernel_dir
    except CacheError:
        return
    if kernel_dir is not None:
        os.environ[LOCAL_KERNELS_ENV] = f"{FA3_REPOSITORY}={kernel_dir}"
