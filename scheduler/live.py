"""The live file: what every slot is doing right now, told by whoever runs the queue to whoever looks.

For display only. It may be a second old, and stays behind when its writer is killed: `pid` and `at` tell. The ledger
is the truth.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scheduler.files import write_whole


@dataclass(frozen=True, slots=True)
class LiveSlot:
    """One slot. `run` is "" when it is free; `problem` says why nothing is placed on it. Times in seconds."""

    slot: str
    problem: str = ""
    run: str = ""
    attempt: int = 0
    candidate: str = ""
    name: str = ""
    kind: str = ""
    seed: int = 0
    started_at: float = 0.0
    phase: str = ""
    elapsed_s: float = 0.0
    budget_s: float = 0.0
    step: int | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """`at` is when it was written (seconds since the epoch), `pool` what makes the scores comparable.

    `search` is the number of the search that is on (0: none), `note` what it does beside the slots.
    """

    at: float
    pid: int
    tag: str
    pool: str
    queued: int
    stopping: bool
    slots: tuple[LiveSlot, ...]
    note: str = ""
    search: int = 0


def write_live(path: Path, live: Live) -> None:
    """Raises LabProblem when the disk refuses."""
    write_whole(path, json.dumps(asdict(live)))


def read_live(path: Path) -> Live | None:
    """None when nobody has written one, or it is of another version."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Live(**(raw | {"slots": tuple(LiveSlot(**slot) for slot in raw["slots"])}))
    except (OSError, ValueError, KeyError, TypeError):
        return None
