"""A digest of the code a node runs, so that a supervisor of older code is noticed and replaced.

Covers what a node executes: the referee and the supervisor's own modules. The ledger and the command line may change
without touching a node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from scheduler.adapters.judge_environment import CODE_ROOT

NODE_MODULES = (
    "scheduler/domain/slot.py",
    "scheduler/domain/errors.py",
    *(
        f"scheduler/adapters/{name}.py"
        for name in (
            "cache_probe", "code_digest", "gpu", "gpu_node", "judge_environment", "judge_process", "machine", "node",
            "slot_actor", "slot_layout", "spool",
        )
    ),
)  # fmt: skip
REFEREE_SUFFIXES = (".py", ".yaml")


@cache
def code_digest(root: Path = CODE_ROOT) -> str:
    """Twelve hex digits naming the node's code below `root`."""
    digest = hashlib.sha256()
    for path in sorted(_files(root)):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _files(root: Path) -> Iterable[Path]:
    yield from (root / name for name in NODE_MODULES if (root / name).exists())
    yield from (path for path in (root / "harness").rglob("*") if path.suffix in REFEREE_SUFFIXES)
