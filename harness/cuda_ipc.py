"""Device memory shared between two processes: the judge allocates and exports, the candidate opens.

Covers: legacy CUDA IPC through ctypes on the runtime library torch has loaded, and tensors over such memory. An
allocation of its own (cudaMalloc, not torch's allocator) because a handle exports the whole allocation underneath it.
Both processes must be in one PID namespace. Not covered: who writes when. Where IPC does not work, callers pass
logits through the host.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import torch

from harness.exchange import CUDA_HANDLE_BYTES, Layout

_GRANULE = 2 << 20  # CUDA maps device memory in pieces of this size; nothing else shall share the last one
_LAZY_PEER_ACCESS = 1


class CudaError(Exception):
    """The CUDA runtime refused; the message names the call and the reason."""


class _Handle(ctypes.Structure):
    """cudaIpcMemHandle_t."""

    _fields_ = (("reserved", ctypes.c_ubyte * CUDA_HANDLE_BYTES),)


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


class ExportedBuffer:
    """float32 logits [slice_rows, T, V] on the judge's device, with the handle another process opens them by."""

    def __init__(self, layout: Layout) -> None:
        self._runtime = _runtime()
        self._address = ctypes.c_void_p()
        size = -(-layout.logits_bytes // _GRANULE) * _GRANULE
        _call(self._runtime, "cudaMalloc", ctypes.byref(self._address), ctypes.c_size_t(size))
        try:
            self.handle = _export(self._runtime, self._address)
        except CudaError:
            self.close()
            raise
        self.tensor = _tensor(self._address, layout)

    def close(self) -> None:
        """Free the memory; what a peer has mapped stays valid until it unmaps it."""
        self._runtime.cudaFree(self._address)


def open_buffer(layout: Layout, memory: mmap.mmap) -> Any | None:
    """The candidate's view of the judge's buffer, whose handle lies in the shared memory; None where IPC does not work.

    It stays open until the process ends.
    """
    if not torch.cuda.is_available():
        return None
    address = ctypes.c_void_p()
    handle = _Handle.from_buffer_copy(memory, layout.logits_offset)
    try:
        flags = ctypes.c_uint(_LAZY_PEER_ACCESS)
        _call(_runtime(), "cudaIpcOpenMemHandle", ctypes.byref(address), handle, flags)
    except CudaError:
        return None
    return _tensor(address, layout)


def _export(runtime: ctypes.CDLL, address: ctypes.c_void_p) -> bytes:
    handle = _Handle()
    _call(runtime, "cudaIpcGetMemHandle", ctypes.byref(handle), address)
    return bytes(handle.reserved)


def _tensor(address: ctypes.c_void_p, layout: Layout) -> torch.Tensor:
    shape = (layout.slice_rows, layout.sequence_length, layout.vocab_size)
    return torch.as_tensor(_DeviceArray(address.value or 0, shape), device="cuda")


def _runtime() -> ctypes.CDLL:
    """The runtime library torch itself uses, with this process's context made current."""
    torch.cuda.init()
    torch.cuda.synchronize()
    try:
        return ctypes.CDLL(f"libcudart.so.{str(torch.version.cuda).partition('.')[0]}")
    except OSError as error:
        raise CudaError(f"cannot load the CUDA runtime: {error}") from error


def _call(runtime: ctypes.CDLL, name: str, *arguments: Any) -> None:
    code = getattr(runtime, name)(*arguments)
    if code != 0:
        runtime.cudaGetLastError()  # clears it, or torch would raise it at its next call
        runtime.cudaGetErrorString.restype = ctypes.c_char_p
        raise CudaError(f"{name}: {runtime.cudaGetErrorString(code).decode()}")
