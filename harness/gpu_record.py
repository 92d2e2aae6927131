"""What a trial of this node's GPU showed: which attention kernels work and how fast, how logits reach the judge.

Covers: the record, its file in the cache folder (one for each GPU model and torch, so that nodes that share the folder
share it), the kernels to choose from with and without one. Not covered: the trial (harness.gpu_probe). Standard
library only.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.contract import Contract
from harness.files import cache_root, write_atomic
from harness.protocol import ATTENTION_NAMES

EXPECT_ENV = "ARSCHED_EXPECT_ATTENTION"
HOPPER = (9, 0)
RECORDS_FOLDER = "gpus"  # below the cache root
_NVIDIA = Path("/proc/driver/nvidia")


@dataclass(frozen=True, slots=True)
class GpuRecord:
    """`device`: the model's name as torch and the driver say it. `torch`: version of the distribution. `shape`: of the
    contracts it holds for (`shape_of`).

    `attention`: the kernel that runs use, the fastest that works. `attention_ms`: milliseconds of a compiled forward
    and backward of four layers (windows S, S, S, L), for every kernel that works; `attention_refused`: why not
    the others.
    `exchange`: how logits reach the judge, the best way that works; `exchange_gb_per_s`: logits passed and scored in
    10^9 bytes per second that way; both None when it was not tried. `fa3_fetched`: Flash
    Attention 3 was on this node then. `doubt`: what makes the trial itself doubtful.
    """

    device: str
    torch: str
    shape: str
    driver: str | None
    attention: str
    attention_ms: dict[str, float] = field(default_factory=dict)
    attention_refused: dict[str, str] = field(default_factory=dict)
    exchange: str | None = None
    exchange_gb_per_s: float | None = None
    exchange_refused: dict[str, str] = field(default_factory=dict)
    fa3_fetched: bool = False
    doubt: str = ""


def shape_of(contract: Contract) -> str:
    """What of a contract decides between kernels: rows of so many tokens, heads of so many channels."""
    return f"T{contract.sequence_length}-D{head_dim_of(contract)}"


def head_dim_of(contract: Contract) -> int:
    """Channels of a head as the contract's train.py has them; upstream's 128 where it does not say."""
    return int(dict(contract.train_constants).get("HEAD_DIM", 128))


def record_path(device: str, torch: str, shape: str) -> Path:
    """Where the record of a GPU model under a torch version for contracts of that shape lies."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{device}-torch-{torch}-{shape}").strip("-")
    return cache_root() / RECORDS_FOLDER / f"{name}.json"


def write_record(record: GpuRecord) -> None:
    """Write it whole. Raises OSError."""
    path = record_path(record.device, record.torch, record.shape)
    write_atomic(path, json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def read_record(device: str, shape: str) -> GpuRecord | None:
    """The record of that GPU model under the installed torch; None when there is no whole one."""
    return _read(record_path(device, torch_version(), shape))


def record_of_this_node(shape: str) -> GpuRecord | None:
    """The record of the first GPU that the driver's /proc files name; where they are hidden, the only one there is."""
    for device in device_names():
        return read_record(device, shape)
    records = [_read(path) for path in sorted((cache_root() / RECORDS_FOLDER).glob("*.json"))]
    fitting = [record for record in records if record and (record.torch, record.shape) == (torch_version(), shape)]
    return fitting[0] if len(fitting) == 1 else None


def candidates_for(capability: tuple[int, int]) -> tuple[str, ...]:
    """Kernels worth a trial on a CUDA device of this compute capability. Flash kernels and Triton's want sm80."""
    if capability[0] < 8:
        return ("sdpa",)
    return ("fa3", "fa2", "flex", "sdpa") if capability == HOPPER else ("fa2", "flex", "sdpa")


def without_trial(capability: tuple[int, int], *, has_windowed_varlen: bool) -> tuple[str, ...]:
    """Best first, on an untried CUDA device. Flash Attention 3 may import and then crash: it is not offered."""
    names = [name for name in candidates_for(capability) if name != "fa3"]
    return tuple(name for name in names if name != "fa2" or has_windowed_varlen)


def after_trial(record: GpuRecord, capability: tuple[int, int]) -> tuple[str, ...]:
    """Best first, as the trial of this device found."""
    others = sorted(record.attention_ms, key=lambda name: record.attention_ms[name])
    names = [record.attention, *(name for name in others if name != record.attention)]
    return tuple(name for name in names if name in candidates_for(capability)) or ("sdpa",)


def device_names() -> tuple[str, ...]:
    """Models of this machine's NVIDIA GPUs in PCI order, by /proc; empty where a container hides it."""
    texts = [_text(path) for path in sorted(_NVIDIA.glob("gpus/*/information"))]
    return tuple(found.group(1).strip() for text in texts if (found := re.search(r"^Model:\s*(.+)$", text, re.M)))


def driver_version() -> str | None:
    """Version of the NVIDIA driver, by /proc; None where it cannot be read."""
    found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", _text(_NVIDIA / "version"))
    return found.group(1) if found else None


def torch_version() -> str:
    """Version of the installed torch without importing it; "none" without one."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "none"


def _read(path: Path) -> GpuRecord | None:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record = GpuRecord(**raw)
    except (OSError, ValueError, TypeError):
        return None
    return record if _is_well_typed(record) else None


def _is_well_typed(record: GpuRecord) -> bool:
    names = {record.attention, *record.attention_ms}
    times = all(isinstance(ms, int | float) for ms in record.attention_ms.values())
    return names <= set(ATTENTION_NAMES) and times and isinstance(record.attention_refused, dict)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
