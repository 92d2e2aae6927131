"""Device memory shared by CUDA IPC: the judge allocates and exports, the candidate opens.

Covers: legacy CUDA IPC. An allocation of its own (cudaMalloc, not torch's allocator) because a handle exports the whole
allocation underneath it. Both processes must be in one PID namespace. Not covered: memory shared by a descriptor, which
needs no common namespace (harness.cuda_fd).
"""

from __future__ import annotations

import ctypes
import mmap

import torch

from harness.cuda_memory import CudaError, call_runtime, logits_tensor, runtime, whole_granules
from harness.exchange import CUDA_HANDLE_BYTES, Layout

_GRANULE = 2 << 20  # CUDA maps device memory in pieces of this size; nothing else shall share the last one
_LAZY_PEER_ACCESS = 1


class _Handle(ctypes.Structure):
    """cudaIpcMemHandle_t."""

    _fields_ = (("reserved", ctypes.c_ubyte * CUDA_HANDLE_BYTES),)


class IpcBuffer:
    """float32 logits [slice_rows, T, V] on the judge's device, with the handle another process opens them by.

    Raises CudaError, and torch's RuntimeError where there is no device.
    """

    fds: tuple[int, ...] = ()

    def __init__(self, layout: Layout) -> None:
        self._runtime = runtime()
        self._address = ctypes.c_void_p()
        size = ctypes.c_size_t(whole_granules(layout.logits_bytes, _GRANULE))
        call_runtime(self._runtime, "cudaMalloc", ctypes.byref(self._address), size)
        try:
            self.handle = self._export()
            self.tensor = logits_tensor(self._address.value or 0, layout)
        except (CudaError, RuntimeError):
            self.close()
            raise

    def close(self) -> None:
        """Free the memory; what a peer has mapped stays valid until it unmaps it."""
        self._runtime.cudaFree(self._address)

    def _export(self) -> bytes:
        handle = _Handle()
        call_runtime(self._runtime, "cudaIpcGetMemHandle", ctypes.byref(handle), self._address)
        return bytes(handle.reserved)


def open_buffer(layout: Layout, memory: mmap.mmap) -> torch.Tensor:
    """The candidate's view of the judge's buffer, whose handle lies in the shared memory.

    It stays open until the process ends. Raises CudaError, and torch's RuntimeError where there is no device.
    """
    address = ctypes.c_void_p()
    handle = _Handle.from_buffer_copy(memory, layout.logits_offset)
    flags = ctypes.c_uint(_LAZY_PEER_ACCESS)
    call_runtime(runtime(), "cudaIpcOpenMemHandle", ctypes.byref(address), handle, flags)
    return logits_tensor(address.value or 0, layout)
