"""What every way of sharing device memory stands on: calling CUDA's libraries through ctypes, tensors over an address.

Covers: errors by CUDA's own names, float32 logits at an address as a torch tensor, page-locked host memory. Not
covered: how another process reaches the memory (harness.cuda_ipc, harness.cuda_fd), and who writes when.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray

from harness.exchange import Layout


class CudaError(Exception):
    """CUDA refused, or is not here; the message names the call and the reason."""


class _DeviceArray:
    """Memory at a device address, in the form torch.as_tensor takes without a copy."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def logits_tensor(address: int, layout: Layout) -> torch.Tensor:
    """float32 [slice_rows, T, V] on this process's device, over memory that somebody else keeps allocated."""
    return torch.as_tensor(_DeviceArray(address, layout.logits_shape), device="cuda")


def whole_granules(size: int, granule: int) -> int:
    """`size` bytes rounded up to what CUDA maps at once."""
    return -(-size // granule) * granule


def make_context() -> None:
    """Make the context of this process's device current, creating it. Raises CudaError, and torch's RuntimeError."""
    try:
        torch.cuda.init()
    except AssertionError as error:  # a build of torch for the CPU
        raise CudaError(str(error)) from error
    torch.cuda.synchronize()


def load(name: str) -> ctypes.CDLL:
    """One of CUDA's libraries. Raises CudaError."""
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise CudaError(f"cannot load {name}: {error}") from error


def runtime() -> ctypes.CDLL:
    """The runtime library torch itself uses, with a current context. Raises CudaError, and torch's RuntimeError."""
    make_context()
    return load(f"libcudart.so.{str(torch.version.cuda).partition('.')[0]}")


def call_runtime(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    """Call a function of the runtime library. Raises CudaError."""
    code = getattr(library, name)(*arguments)
    if code != 0:
        library.cudaGetLastError()  # clears it, or torch would raise it at its next call
        library.cudaGetErrorString.restype = ctypes.c_char_p
        raise CudaError(f"{name}: {library.cudaGetErrorString(code).decode()}")


def pin(array: NDArray[Any]) -> Callable[[], object]:
    """Page-lock host memory, for copies at the speed of the bus; returns what undoes it, due before the memory goes.

    Raises CudaError, and torch's RuntimeError where there is no device.
    """
    library, address = runtime(), ctypes.c_void_p(array.ctypes.data)
    call_runtime(library, "cudaHostRegister", address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0))
    return functools.partial(library.cudaHostUnregister, address)
