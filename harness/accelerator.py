"""The device a contract trains on: which one, in which type, how fast it could be, how much memory was used.

Covers: CPU and NVIDIA GPUs; peak bf16 throughput of the GPUs people train on, from NVIDIA's data sheets (dense, no
sparsity). Not covered: choosing among several GPUs (the judge shows a run exactly one).
"""

from __future__ import annotations

import ctypes
import functools
import re
import resource
import sys

import torch

from harness.session import current

# Words of the device's name -> dense bf16 FLOP/s. The first entry whose words all occur in the name counts.
_PEAK_BF16_FLOPS: tuple[tuple[str, float], ...] = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("H200", 989.5e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989.5e12),
    ("H800", 989.5e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
)


# Numbers of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@functools.cache
def training_device() -> str:
    """ "cuda" or "cpu", as the contract says; on CPU the process is set up for it, alone as under the judge.

    Raises SystemExit with one clear sentence when the contract needs a GPU and none is visible.
    """
    contract = current().contract
    if contract.device == "cpu":
        torch.set_num_threads(contract.threads)
        _keep_freed_memory()
    elif not torch.cuda.is_available():
        raise SystemExit(
            f"error: contract {contract.name!r} needs a CUDA device and torch {torch.__version__} sees none\n"
            "hint: run on a GPU node, or take the CPU contract: ARSCHED_CONTRACT=cpu python train.py"
        )
    return contract.device


def _keep_freed_memory() -> None:
    """Let glibc keep the blocks it frees: else every step gives megabytes back to the kernel and faults them in again.

    A fifth of a CPU step at the shipped size, and the part of it that neighbours on the machine disturb most.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the largest value glibc accepts
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def training_dtype() -> torch.dtype:
    """What matrices are multiplied in: bfloat16 on a GPU of compute capability 8.0 or newer, else float32."""
    if training_device() == "cuda" and torch.cuda.get_device_capability() >= (8, 0):
        return torch.bfloat16
    return torch.float32


def peak_flops() -> float | None:
    """Peak dense bf16 FLOP/s of the training device; None for a CPU or a GPU that is not in the table."""
    return None if training_device() == "cpu" else peak_flops_of(torch.cuda.get_device_name())


def peak_flops_of(device_name: str) -> float | None:
    """Peak dense bf16 FLOP/s by name ("NVIDIA H100 80GB HBM3"); None when unknown."""
    words = set(re.split(r"[^A-Za-z0-9]+", device_name))
    return next((flops for name, flops in _PEAK_BF16_FLOPS if words.issuperset(name.split())), None)


def peak_memory_mb() -> float:
    """Peak memory so far in MiB: the device's allocator on a GPU, resident memory of this process on a CPU."""
    if training_device() == "cuda":
        return float(torch.cuda.max_memory_allocated()) / 2**20
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
