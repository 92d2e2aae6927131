"""Files that appear whole or not at all: written beside their place and renamed into it.

Raises LabProblem when the disk refuses; does not lock.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from scheduler.domain.errors import LabProblem


def write_whole(path: Path, data: str | bytes, *, durable: bool = False) -> None:
    """Replace `path` by `data`, making its folder. `durable`: it shall outlive a power cut as well."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(raw)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError as problem:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        hint = "make room on that disk, see that the folder is writable, and run the command again"
        raise LabProblem(f"{path} cannot be written: {problem.strerror or problem}", hint) from None
