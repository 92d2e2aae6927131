"""A run's private folders: working directory with a copy of train.py, home, temporary files, compile caches.

Covers: making them afresh beside the output folder and removing them whatever the candidate did to their modes. They
are not inside it: the judge's files have no name that leads up from the candidate's. Not covered: keeping the candidate
out of other folders (that is a sandbox's work).
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.contract import Contract
from harness.judge.trees import remove

_TOKEN = r"[a-z0-9_]{8}"  # what mkdtemp appends


@dataclass(frozen=True, slots=True)
class Scratch:
    """Everything a candidate may write to."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def caches(self) -> Path:
        return self.root / "cache"

    @property
    def contract_path(self) -> Path:
        return self.root / "contract.json"

    @classmethod
    def make(cls, out: Path, contract: Contract, train_py: bytes) -> Scratch:
        """Fresh folders on the disk of `out`, which the caller has claimed; leftovers of a killed judge go first."""
        place, prefix = _place_beside(out), f".{out.name}.scratch-"
        for name in os.listdir(place):
            if re.fullmatch(re.escape(prefix) + _TOKEN, name):
                cls(place / name).remove()
        scratch = cls(Path(tempfile.mkdtemp(prefix=prefix, dir=place)))
        for folder in (scratch.work, scratch.home, scratch.temporary, scratch.caches):
            folder.mkdir(parents=True)
        scratch.contract_path.write_text(contract.to_json(), encoding="utf-8")
        (scratch.work / "train.py").write_bytes(train_py)
        return scratch

    def remove(self) -> None:
        """Delete everything, folders a candidate has locked included; what cannot be deleted stays, silently."""
        with contextlib.suppress(OSError):
            above = os.open(self.root.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                remove(self.root.name, above)
            finally:
                os.close(above)


def _place_beside(out: Path) -> Path:
    """The folder `out` lies in; `out` itself where that is another disk (a mounted volume) or not ours to write to."""
    beside = out.parent
    same_disk = beside.stat().st_dev == out.stat().st_dev
    return beside if same_disk and os.access(beside, os.R_OK | os.W_OK | os.X_OK) else out
