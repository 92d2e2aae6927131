"""A run's private folders: working directory with a copy of train.py, home, temporary files, compile caches.

Covers: making them afresh below the output directory and removing them whatever the candidate did to their modes.
Not covered: keeping the candidate out of other folders (that is a sandbox's work).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.contract import Contract

SCRATCH_NAME = "scratch"


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
        """Fresh folders; leftovers of a judge that was killed go first."""
        scratch = cls(out / SCRATCH_NAME)
        scratch.remove()
        for folder in (scratch.work, scratch.home, scratch.temporary, scratch.caches):
            folder.mkdir(parents=True)
        scratch.contract_path.write_text(contract.to_json(), encoding="utf-8")
        (scratch.work / "train.py").write_bytes(train_py)
        return scratch

    def remove(self) -> None:
        """Delete everything, folders a candidate has locked included; what cannot be deleted stays, silently."""
        for folder, _, _ in os.walk(self.root, followlinks=False):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                os.chmod(folder, 0o700)
        shutil.rmtree(self.root, ignore_errors=True)
