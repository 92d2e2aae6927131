"""The spool: one folder on the node for every attempt at a run, from its order to its result.

    <root>/<lab id>/<run>.<attempt>/   order.json train.py contract.json   written whole, by one rename: the guard
                                       judge.pid judge.log alive.lock      of the judge's own process
                                       out/                                the judge's --out
    <root>/<lab id>/acknowledged/      one empty file for every attempt whose report was recorded
    <root>/locks/                      one lock file for every GPU and core

The rename makes a second start of the same attempt a no-op, also after a crash. Files only; processes are
`judge_process`. Everything here may be deleted when no run is going on: a spool holds no truth for long.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Progress, RunOrder

ACKNOWLEDGED = "acknowledged"
LOCKS = "locks"
LOG_LIMIT_BYTES = 4 * 2**20  # carried to the driver: the judge caps run.log far below, a hostile file may not
TAIL_BYTES = 4096


def default_spool_root(environ: Mapping[str, str] = os.environ) -> Path:
    """ARSCHED_SPOOL, else `spool` in the cache folder (ARSCHED_CACHE, else the XDG one)."""
    if spool := environ.get("ARSCHED_SPOOL"):
        return Path(spool)
    if cache := environ.get("ARSCHED_CACHE"):
        return Path(cache) / "spool"
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "arsched" / "spool"


@dataclass(frozen=True, slots=True)
class Spool:
    """One attempt's folder."""

    directory: Path
    slot_id: str
    lab_id: str
    run_id: str
    attempt: int

    @property
    def order_path(self) -> Path:
        return self.directory / "order.json"

    @property
    def train_path(self) -> Path:
        return self.directory / "train.py"

    @property
    def contract_path(self) -> Path:
        return self.directory / "contract.json"

    @property
    def pid_path(self) -> Path:
        return self.directory / "judge.pid"

    @property
    def judge_log_path(self) -> Path:
        return self.directory / "judge.log"

    @property
    def alive_path(self) -> Path:
        return self.directory / "alive.lock"

    @property
    def out(self) -> Path:
        return self.directory / "out"

    @property
    def key(self) -> str:
        return self.directory.name

    def result_text(self) -> str | None:
        """result.json as the judge left it; None while there is none."""
        return _read(self.out / "result.json")

    def log(self) -> str:
        """The candidate's log, "" without one."""
        return tail(self.out / "run.log", LOG_LIMIT_BYTES)

    def progress(self) -> Progress:
        """What the judge last said; the default before it says anything."""
        try:
            raw = json.loads(_read(self.out / "progress.json") or "{}")
            return Progress(
                phase=str(raw.get("phase") or "starting"),
                elapsed_s=float(raw.get("elapsed_s") or 0.0),
                budget_s=float(raw.get("budget_s") or 0.0),
                step=raw.get("step"),
                loss=raw.get("loss"),
            )
        except (ValueError, TypeError, AttributeError):
            return Progress()


class SpoolRoot:
    """All spools of one node."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, slot_id: str, order: RunOrder) -> Spool | None:
        """Lay out an attempt's folder. None when it is there already. Raises PoolProblem."""
        lab = self.root / _safe(order.lab_id)
        key = _safe(order.key)
        try:
            (lab / ACKNOWLEDGED).mkdir(parents=True, exist_ok=True)
            return self._place(lab, key, slot_id, order)
        except OSError as problem:
            raise _disk_problem(self.root, problem) from None

    def was_acknowledged(self, order: RunOrder) -> bool:
        """Whether this attempt was here before, reported and done with."""
        return (self.root / _safe(order.lab_id) / ACKNOWLEDGED / _safe(order.key)).exists()

    def of_lab(self, lab_id: str) -> tuple[Spool, ...]:
        """Every attempt of one lab that was not acknowledged, oldest first by key."""
        return tuple(sorted(self._scan(self.root / _safe(lab_id)), key=lambda spool: spool.key))

    def find(self, lab_id: str, run_id: str, attempt: int) -> Spool | None:
        directory = self.root / _safe(lab_id) / _safe(f"{run_id}.{attempt}")
        return _open(directory)

    def everything(self) -> tuple[Spool, ...]:
        """Attempts of all labs, for the question whether this slot is busy."""
        labs = [entry for entry in _folders(self.root) if entry.name != LOCKS]
        return tuple(spool for lab in labs for spool in self._scan(lab))

    def acknowledge(self, spool: Spool) -> None:
        """Remember the attempt's key and remove its folder. Raises PoolProblem."""
        lab = spool.directory.parent
        try:
            (lab / ACKNOWLEDGED).mkdir(exist_ok=True)
            (lab / ACKNOWLEDGED / spool.key).touch()
            shutil.rmtree(spool.directory, ignore_errors=True)
        except OSError as problem:
            raise _disk_problem(self.root, problem) from None

    def discard(self, spool: Spool) -> None:
        """Remove an attempt's folder as if it had never come."""
        shutil.rmtree(spool.directory, ignore_errors=True)

    def lock_path(self, name: str) -> Path:
        """Lock file of one GPU or core; its folder exists afterwards. Raises PoolProblem."""
        try:
            (self.root / LOCKS).mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise _disk_problem(self.root, problem) from None
        return self.root / LOCKS / f"{_safe(name)}.lock"

    def free_mb(self) -> float:
        """Free space in MB (2**20 bytes). Raises PoolProblem when the folder cannot be made."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self.root).free / 2**20
        except OSError as problem:
            raise _disk_problem(self.root, problem) from None

    def _place(self, lab: Path, key: str, slot_id: str, order: RunOrder) -> Spool | None:
        beside = lab / f".{key}.{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            _fill(beside, slot_id, order)
            beside.rename(lab / key)
        except OSError as problem:
            shutil.rmtree(beside, ignore_errors=True)
            if problem.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return None
            raise
        return Spool(lab / key, slot_id, order.lab_id, order.run_id, order.attempt)

    def _scan(self, lab: Path) -> Iterator[Spool]:
        for entry in _folders(lab):
            if (lab / ACKNOWLEDGED / entry.name).exists():  # removal was interrupted
                shutil.rmtree(entry, ignore_errors=True)
            elif spool := _open(entry):
                yield spool


def tail(path: Path, limit_bytes: int = TAIL_BYTES) -> str:
    """Last bytes of a text file, "" when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit_bytes))
            return file.read(limit_bytes).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _fill(directory: Path, slot_id: str, order: RunOrder) -> None:
    (directory / "out").mkdir(parents=True)
    (directory / "train.py").write_bytes(order.train_py)
    (directory / "contract.json").write_text(order.contract_json, encoding="utf-8")
    facts = {
        "slot_id": slot_id, "lab_id": order.lab_id, "run_id": order.run_id, "attempt": order.attempt,
        "seed": order.seed, "train_sha256": order.train_sha256, "cache_digest": order.cache_digest,
        "expect_attention": order.expect_attention,
    }  # fmt: skip
    (directory / "order.json").write_text(json.dumps(facts), encoding="utf-8")


def _open(directory: Path) -> Spool | None:
    try:
        raw = json.loads(_read(directory / "order.json") or "")
        return Spool(directory, raw["slot_id"], raw["lab_id"], raw["run_id"], int(raw["attempt"]))
    except (ValueError, KeyError, TypeError):
        return None


def _folders(parent: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(parent))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and entry.name != ACKNOWLEDGED and not entry.name.startswith("."):
            yield Path(entry.path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _safe(name: str) -> str:
    """A name that is one path component. Raises PoolProblem."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise PoolProblem(f"{name!r} cannot name a folder of the spool")
    return name


def _disk_problem(root: Path, problem: OSError) -> PoolProblem:
    hint = "free some space there, or point ARSCHED_SPOOL at another disk"
    return PoolProblem(f"the spool at {root} cannot be written: {problem.strerror or problem}", hint)
