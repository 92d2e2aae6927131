"""What a result says about the machine: versions, device, and whether the kernel ran out of memory.

Covers: reading package metadata and /proc, without importing torch and without touching a GPU. Unknown is None.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path

import harness
from harness.judge.result import Device

_NVIDIA = Path("/proc/driver/nvidia")


def versions() -> dict[str, str | None]:
    """Versions of what a score depends on."""
    return {
        "python": platform.python_version(),
        "torch": _distribution("torch"),
        "numpy": _distribution("numpy"),
        "arsched": harness.__version__,
    }


def _distribution(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_device() -> Device:
    match = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return Device("cpu", match.group(1) if match else platform.machine(), None, None)


def gpu_device(visible: str) -> Device:
    """The GPU that `visible` (a UUID or an index in PCI order) names, as far as the driver's /proc files tell."""
    gpus = [_gpu(folder) for folder in sorted(_NVIDIA.glob("gpus/*"))]
    named = [gpu for gpu in gpus if gpu[1] is not None and gpu[1] == visible]
    if not named and visible.isdigit() and int(visible) < len(gpus):
        named = [gpus[int(visible)]]
    name, uuid = named[0] if named else (None, visible if visible.startswith("GPU-") else None)
    version = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", _read(_NVIDIA / "version"))
    return Device("cuda", name, uuid, version.group(1) if version else None)


def _gpu(folder: Path) -> tuple[str | None, str | None]:
    text = _read(folder / "information")
    model = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
    uuid = re.search(r"^GPU UUID:\s*(\S+)$", text, re.MULTILINE)
    return (model.group(1).strip() if model else None, uuid.group(1) if uuid else None)


def kernel_memory_kills() -> int:
    """How many processes the kernel has killed for memory since boot; 0 where it does not count them."""
    match = re.search(r"^oom_kill (\d+)$", _read(Path("/proc/vmstat")), re.MULTILINE)
    return int(match.group(1)) if match else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
