"""Device memory of one process that another one maps: allocated and exported by the judge, opened by the candidate.

CUDA IPC (both processes in one PID namespace), memory named by a file descriptor (between containers, too), page-locked
host memory; all by ctypes. The descriptor's structures and constants are cuda.h's, "Virtual Memory Management" at
https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray

from harness.protocol import CUDA_HANDLE_BYTES, Layout

_IPC_GRANULE = 2 << 20  # CUDA maps device memory in pieces of this size; nothing else shall share the last one
_LAZY_PEER_ACCESS = 1
_TYPE_PINNED = 1  # CU_MEM_ALLOCATION_TYPE_PINNED
_HANDLE_POSIX_FD = 1  # CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_LOCATION_DEVICE = 1  # CU_MEM_LOCATION_TYPE_DEVICE
_ACCESS_READ_WRITE = 3  # CU_MEM_ACCESS_FLAGS_PROT_READWRITE
_GRANULARITY_MINIMUM = 0  # CU_MEM_ALLOC_GRANULARITY_MINIMUM


class CudaError(Exception):
    """CUDA refused, or is not here; the message names the call and the reason."""


class _DeviceArray:
    """float32 memory at a device address, in the form torch.as_tensor takes without a copy."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        data = (address, False)
        self.__cuda_array_interface__ = {"shape": shape, "typestr": "<f4", "data": data, "strides": None, "version": 3}


def logits_tensor(address: int, layout: Layout) -> torch.Tensor:
    """float32 [slice_rows, T, V] on this process's device, over memory that the caller keeps allocated."""
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


class _IpcHandle(ctypes.Structure):
    """cudaIpcMemHandle_t."""

    _fields_ = (("reserved", ctypes.c_ubyte * CUDA_HANDLE_BYTES),)


class IpcBuffer:
    """float32 logits [slice_rows, T, V] on the judge's device, with the handle another process opens them by.

    An allocation of its own, not of torch's allocator: a handle exports the whole allocation underneath it. Raises
    CudaError, and torch's RuntimeError where there is no device.
    """

    fds: tuple[int, ...] = ()

    def __init__(self, layout: Layout) -> None:
        self._runtime = runtime()
        self._address = ctypes.c_void_p()
        size = ctypes.c_size_t(whole_granules(layout.logits_bytes, _IPC_GRANULE))
        call_runtime(self._runtime, "cudaMalloc", ctypes.byref(self._address), size)
        try:
            handle = _IpcHandle()
            call_runtime(self._runtime, "cudaIpcGetMemHandle", ctypes.byref(handle), self._address)
            self.handle = bytes(handle.reserved)
            self.tensor = logits_tensor(self._address.value or 0, layout)
        except (CudaError, RuntimeError):
            self.close()
            raise

    def close(self) -> None:
        """Free the memory; what a peer has mapped stays valid until it unmaps it."""
        self._runtime.cudaFree(self._address)


def open_ipc_buffer(layout: Layout, memory: mmap.mmap) -> torch.Tensor:
    """The candidate's view of the judge's buffer, whose handle lies in the shared memory.

    It stays open until the process ends. Raises CudaError, and torch's RuntimeError where there is no device.
    """
    address = ctypes.c_void_p()
    handle = _IpcHandle.from_buffer_copy(memory, layout.logits_offset)
    flags = ctypes.c_uint(_LAZY_PEER_ACCESS)
    call_runtime(runtime(), "cudaIpcOpenMemHandle", ctypes.byref(address), handle, flags)
    return logits_tensor(address.value or 0, layout)


class _Location(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Properties(ctypes.Structure):
    """CUmemAllocationProp; the last two fields are not for memory like ours and stay zero."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location", _Location),
        ("win32_meta_data", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class _Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", _Location), ("flags", ctypes.c_int))


class FdBuffer:
    """float32 logits [slice_rows, T, V] on the judge's device, with the descriptor another process imports them by.

    Raises CudaError, and torch's RuntimeError where there is no device.
    """

    handle = b""

    def __init__(self, layout: Layout) -> None:
        with contextlib.ExitStack() as undo:
            memory = _Memory(layout.logits_bytes, undo)
            allocation = memory.create()
            self.fds: tuple[int, ...] = (memory.export(allocation),)
            self.tensor = logits_tensor(memory.map(allocation), layout)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Give up the memory and the descriptor; what a peer has mapped stays valid until it unmaps it."""
        with contextlib.suppress(RuntimeError):  # unmapping waits for no kernel; one that failed was reported before
            torch.cuda.synchronize()
        self._undo.close()


def open_fd_buffer(layout: Layout, fd: int) -> torch.Tensor:
    """The candidate's view of the judge's buffer; the descriptor stays the caller's to close.

    It stays open until the process ends. Raises CudaError, and torch's RuntimeError where there is no device.
    """
    with contextlib.ExitStack() as undo:
        memory = _Memory(layout.logits_bytes, undo)
        tensor = logits_tensor(memory.map(memory.adopt(fd)), layout)
        undo.pop_all()
    return tensor


class _Memory:
    """One allocation on the current device, by the driver library. Each step leaves in `undo` what takes it back."""

    def __init__(self, size: int, undo: contextlib.ExitStack) -> None:
        make_context()
        self._library = load("libcuda.so.1")
        self._undo = undo
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(torch.cuda.current_device()))
        self._location = _Location(_LOCATION_DEVICE, device.value)
        self._properties = _Properties(_TYPE_PINNED, _HANDLE_POSIX_FD, self._location)
        granule, flag = ctypes.c_size_t(), ctypes.c_int(_GRANULARITY_MINIMUM)
        self._call("cuMemGetAllocationGranularity", ctypes.byref(granule), ctypes.byref(self._properties), flag)
        self._size = ctypes.c_size_t(whole_granules(size, max(1, granule.value)))

    def _call(self, name: str, *arguments: Any) -> None:
        """Raises CudaError with the name of the CUresult."""
        if (code := self._attempt(name, *arguments)) != 0:
            word = ctypes.c_char_p()
            self._attempt("cuGetErrorName", ctypes.c_int(code), ctypes.byref(word))
            raise CudaError(f"{name}: {word.value.decode() if word.value else f'CUresult {code}'}")

    def _attempt(self, name: str, *arguments: Any) -> int:
        """The CUresult, for calls whose failure leaves nothing else to do. Raises CudaError for an unknown call."""
        try:
            return int(getattr(self._library, name)(*arguments))
        except AttributeError:
            raise CudaError(f"the driver has no {name}") from None

    def create(self) -> ctypes.c_ulonglong:
        """Allocate; returns the allocation's handle in this process."""
        allocation = ctypes.c_ulonglong()
        properties, flags = ctypes.byref(self._properties), ctypes.c_ulonglong(0)
        self._call("cuMemCreate", ctypes.byref(allocation), self._size, properties, flags)
        self._undo.callback(self._attempt, "cuMemRelease", allocation)
        return allocation

    def export(self, allocation: ctypes.c_ulonglong) -> int:
        """A descriptor that names the allocation anywhere on this machine."""
        fd = ctypes.c_int(-1)
        kind, flags = ctypes.c_int(_HANDLE_POSIX_FD), ctypes.c_ulonglong(0)
        self._call("cuMemExportToShareableHandle", ctypes.byref(fd), allocation, kind, flags)
        self._undo.callback(os.close, fd.value)
        os.set_inheritable(fd.value, False)
        return fd.value

    def adopt(self, fd: int) -> ctypes.c_ulonglong:
        """The allocation that another process exported."""
        allocation, kind = ctypes.c_ulonglong(), ctypes.c_int(_HANDLE_POSIX_FD)
        address = ctypes.c_void_p(fd)  # the driver takes the number itself where other kinds of handle have an address
        self._call("cuMemImportFromShareableHandle", ctypes.byref(allocation), address, kind)
        self._undo.callback(self._attempt, "cuMemRelease", allocation)
        return allocation

    def map(self, allocation: ctypes.c_ulonglong) -> int:
        """The address at which this process's device may read and write the allocation."""
        address, none, no_size = ctypes.c_ulonglong(), ctypes.c_ulonglong(0), ctypes.c_size_t(0)
        self._call("cuMemAddressReserve", ctypes.byref(address), self._size, no_size, none, none)
        self._undo.callback(self._attempt, "cuMemAddressFree", address, self._size)
        self._call("cuMemMap", address, self._size, no_size, allocation, none)
        self._undo.callback(self._attempt, "cuMemUnmap", address, self._size)
        access = _Access(self._location, _ACCESS_READ_WRITE)
        self._call("cuMemSetAccess", address, self._size, ctypes.byref(access), ctypes.c_size_t(1))
        return address.value
