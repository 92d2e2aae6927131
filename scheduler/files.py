"""Files that appear whole or not at all, with a message for the user when the disk refuses. Does not lock."""

from __future__ import annotations

from pathlib import Path

from harness.files import write_atomic
from scheduler.domain.errors import LabProblem


def write_whole(path: Path, data: str | bytes, *, durable: bool = False) -> None:
    """Replace `path` by `data`, making its folder. `durable`: it shall outlive a power cut as well."""
    try:
        write_atomic(path, data, durable=durable)
    except OSError as problem:
        hint = "make room on that disk, see that the folder is writable, and run the command again"
        raise LabProblem(f"{path} cannot be written: {problem.strerror or problem}", hint) from None
