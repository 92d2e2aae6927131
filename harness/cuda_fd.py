"""Device memory shared by a file descriptor: the judge creates and exports, the candidate imports.

Covers: the virtual memory calls of the CUDA driver API, through ctypes. The descriptor names the memory, so neither a
common PID namespace nor legacy IPC is needed: it works between containers, too. Not covered: how the descriptor travels
(harness.protocol) and who writes when. Structures and constants as in cuda.h, "Virtual Memory Management" at
https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

import torch

from harness.cuda_memory import CudaError, load, logits_tensor, make_context, whole_granules
from harness.exchange import Layout

_TYPE_PINNED = 1  # CU_MEM_ALLOCATION_TYPE_PINNED
_HANDLE_POSIX_FD = 1  # CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_LOCATION_DEVICE = 1  # CU_MEM_LOCATION_TYPE_DEVICE
_ACCESS_READ_WRITE = 3  # CU_MEM_ACCESS_FLAGS_PROT_READWRITE
_GRANULARITY_MINIMUM = 0  # CU_MEM_ALLOC_GRANULARITY_MINIMUM


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
            memory = _Memory(_Driver(), layout.logits_bytes)
            allocation = memory.create(undo)
            self.fds: tuple[int, ...] = (memory.export(allocation, undo),)
            self.tensor = logits_tensor(memory.map(allocation, undo), layout)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Give up the memory and the descriptor; what a peer has mapped stays valid until it unmaps it."""
        with contextlib.suppress(RuntimeError):  # unmapping waits for no kernel; one that failed was reported before
            torch.cuda.synchronize()
        self._undo.close()


def open_buffer(layout: Layout, fd: int) -> torch.Tensor:
    """The candidate's view of the judge's buffer; the descriptor stays the caller's to close.

    It stays open until the process ends. Raises CudaError, and torch's RuntimeError where there is no device.
    """
    with contextlib.ExitStack() as undo:
        memory = _Memory(_Driver(), layout.logits_bytes)
        tensor = logits_tensor(memory.map(memory.adopt(fd, undo), undo), layout)
        undo.pop_all()
    return tensor


class _Driver:
    """The driver library, with a current context."""

    def __init__(self) -> None:
        make_context()
        self._library = load("libcuda.so.1")

    def call(self, name: str, *arguments: Any) -> None:
        """Raises CudaError with the name of the CUresult."""
        code = self.attempt(name, *arguments)
        if code != 0:
            said = ctypes.c_char_p()
            self.attempt("cuGetErrorName", ctypes.c_int(code), ctypes.byref(said))
            raise CudaError(f"{name}: {said.value.decode() if said.value else f'CUresult {code}'}")

    def attempt(self, name: str, *arguments: Any) -> int:
        """The CUresult, for calls whose failure leaves nothing else to do. Raises CudaError for an unknown call."""
        try:
            return int(getattr(self._library, name)(*arguments))
        except AttributeError:
            raise CudaError(f"the driver has no {name}") from None


class _Memory:
    """One allocation on the current device. Each step leaves in `undo` what takes it back."""

    def __init__(self, driver: _Driver, size: int) -> None:
        self._driver = driver
        device = ctypes.c_int()
        driver.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(torch.cuda.current_device()))
        self._location = _Location(_LOCATION_DEVICE, device.value)
        self._properties = _Properties(_TYPE_PINNED, _HANDLE_POSIX_FD, self._location)
        granule = ctypes.c_size_t()
        flag = ctypes.c_int(_GRANULARITY_MINIMUM)
        driver.call("cuMemGetAllocationGranularity", ctypes.byref(granule), ctypes.byref(self._properties), flag)
        self._size = ctypes.c_size_t(whole_granules(size, max(1, granule.value)))

    def create(self, undo: contextlib.ExitStack) -> ctypes.c_ulonglong:
        """Allocate; returns the allocation's handle in this process."""
        allocation = ctypes.c_ulonglong()
        properties, flags = ctypes.byref(self._properties), ctypes.c_ulonglong(0)
        self._driver.call("cuMemCreate", ctypes.byref(allocation), self._size, properties, flags)
        undo.callback(self._driver.attempt, "cuMemRelease", allocation)
        return allocation

    def export(self, allocation: ctypes.c_ulonglong, undo: contextlib.ExitStack) -> int:
        """A descriptor that names the allocation anywhere on this machine."""
        fd = ctypes.c_int(-1)
        kind, flags = ctypes.c_int(_HANDLE_POSIX_FD), ctypes.c_ulonglong(0)
        self._driver.call("cuMemExportToShareableHandle", ctypes.byref(fd), allocation, kind, flags)
        undo.callback(os.close, fd.value)
        os.set_inheritable(fd.value, False)
        return fd.value

    def adopt(self, fd: int, undo: contextlib.ExitStack) -> ctypes.c_ulonglong:
        """The allocation that another process exported."""
        allocation = ctypes.c_ulonglong()
        kind = ctypes.c_int(_HANDLE_POSIX_FD)
        address = ctypes.c_void_p(fd)  # the driver takes the number itself where other kinds of handle have an address
        self._driver.call("cuMemImportFromShareableHandle", ctypes.byref(allocation), address, kind)
        undo.callback(self._driver.attempt, "cuMemRelease", allocation)
        return allocation

    def map(self, allocation: ctypes.c_ulonglong, undo: contextlib.ExitStack) -> int:
        """The address at which this process's device may read and write the allocation."""
        driver, address, none = self._driver, ctypes.c_ulonglong(), ctypes.c_ulonglong(0)
        align = ctypes.c_size_t(0)
        driver.call("cuMemAddressReserve", ctypes.byref(address), self._size, align, none, none)
        undo.callback(driver.attempt, "cuMemAddressFree", address, self._size)
        driver.call("cuMemMap", address, self._size, ctypes.c_size_t(0), allocation, none)
        undo.callback(driver.attempt, "cuMemUnmap", address, self._size)
        access = _Access(self._location, _ACCESS_READ_WRITE)
        driver.call("cuMemSetAccess", address, self._size, ctypes.byref(access), ctypes.c_size_t(1))
        return address.value
