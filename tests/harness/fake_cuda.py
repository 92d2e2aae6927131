"""A CUDA driver without a GPU: allocations are memfds, addresses are real mappings, and every call can be refused.

Stands in for libcuda.so.1 in harness.cuda_memory, so that both halves of an exchange run in one process with real
descriptors. Counts what has not been given back. Tests nothing itself.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import pytest
import torch

from harness import cuda_memory
from harness.protocol import Layout

GRANULE = 2 << 20
SETUP_CALLS = (
    *("cuDeviceGet", "cuMemGetAllocationGranularity", "cuMemCreate", "cuMemExportToShareableHandle"),
    *("cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"),
)
_OUT_OF_MEMORY, _INVALID_VALUE, _NOT_SUPPORTED = 2, 1, 801
_NAMES = {2: b"CUDA_ERROR_OUT_OF_MEMORY", 1: b"CUDA_ERROR_INVALID_VALUE", 801: b"CUDA_ERROR_NOT_SUPPORTED"}


class FakeDriver:
    """`refused` maps a call to the CUresult it gives; `missing` names calls this driver does not know."""

    def __init__(self) -> None:
        self.refused: dict[str, int] = {}
        self.missing: set[str] = set()
        self.files: dict[int, int] = {}  # allocation handle -> memfd
        self.exported: list[int] = []  # descriptors handed to the caller
        self.reserved: dict[int, int] = {}  # address -> size
        self.mapped: dict[int, mmap.mmap] = {}  # address -> memory
        self.accessible: set[int] = set()
        self._next = 1

    def __getattr__(self, name: str) -> Any:
        if name in self.missing or (call := getattr(type(self), f"_{name}", None)) is None:
            raise AttributeError(name)
        return lambda *arguments: self.refused.get(name) or call(self, *arguments) or 0

    @property
    def held(self) -> tuple[int, int, int]:
        """Allocations, reserved addresses and mappings that were not given back."""
        return (len(self.files), len(self.reserved), len(self.mapped))

    def _cuDeviceGet(self, device: Any, ordinal: ctypes.c_int) -> None:
        device._obj.value = ordinal.value

    def _cuGetErrorName(self, code: ctypes.c_int, name: Any) -> int:
        name._obj.value = _NAMES.get(code.value)
        return 0 if code.value in _NAMES else _INVALID_VALUE

    def _cuMemGetAllocationGranularity(self, granule: Any, properties: Any, flag: ctypes.c_int) -> int:
        granule._obj.value = GRANULE
        p = properties._obj
        return 0 if (p.type, p.handle_types, p.location.type) == (1, 1, 1) else _INVALID_VALUE

    def _cuMemCreate(self, handle: Any, size: ctypes.c_size_t, properties: Any, flags: Any) -> int:
        if size.value % GRANULE:
            return _INVALID_VALUE
        fd = os.memfd_create("fake-device-memory")
        os.ftruncate(fd, size.value)
        handle._obj.value = self._keep(fd)
        return 0

    def _cuMemExportToShareableHandle(self, target: Any, handle: Any, kind: ctypes.c_int, flags: Any) -> int:
        target._obj.value = os.dup(self.files[handle.value])
        self.exported.append(target._obj.value)
        return 0 if kind.value == 1 else _INVALID_VALUE

    def _cuMemImportFromShareableHandle(self, handle: Any, fd: ctypes.c_void_p, kind: ctypes.c_int) -> int:
        if not os.readlink(f"/proc/self/fd/{fd.value}").startswith("/memfd:fake-device-memory"):
            return _INVALID_VALUE
        handle._obj.value = self._keep(os.dup(fd.value or 0))
        return 0

    def _cuMemRelease(self, handle: Any) -> None:
        os.close(self.files.pop(handle.value))

    def _cuMemAddressReserve(self, address: Any, size: Any, align: Any, at: Any, flags: Any) -> None:
        address._obj.value = self._next << 40
        self._next += 1
        self.reserved[address._obj.value] = size.value

    def _cuMemAddressFree(self, address: Any, size: Any) -> int:
        return 0 if self.reserved.pop(address.value) == size.value else _INVALID_VALUE

    def _cuMemMap(self, address: Any, size: Any, offset: Any, handle: Any, flags: Any) -> int:
        self.mapped[address.value] = mmap.mmap(self.files[handle.value], size.value)
        return 0 if self.reserved[address.value] == size.value else _INVALID_VALUE

    def _cuMemUnmap(self, address: Any, size: Any) -> None:
        del self.mapped[address.value]
        self.accessible.discard(address.value)

    def _cuMemSetAccess(self, address: Any, size: Any, access: Any, count: Any) -> int:
        self.accessible.add(address.value)
        return 0 if (access._obj.location.type, access._obj.flags, count.value) == (1, 3, 1) else _INVALID_VALUE

    def tensor(self, address: int, layout: Layout) -> torch.Tensor:
        """What cuda_memory.logits_tensor gives, on the CPU."""
        assert address in self.accessible
        count = layout.logits_bytes // 4
        return torch.frombuffer(self.mapped[address], dtype=torch.float32, count=count).view(layout.logits_shape)

    def _keep(self, fd: int) -> int:
        self._next += 1
        self.files[self._next] = fd
        return self._next


def install(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """Let harness.cuda_memory run on a fake driver until the test ends."""
    driver = FakeDriver()
    for name in ("init", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda_memory, "load", lambda name: driver)
    monkeypatch.setattr(cuda_memory, "logits_tensor", driver.tensor)
    return driver
