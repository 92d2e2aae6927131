"""The spool: one folder on the node for every attempt at a run, from its order to its result.

    <root>/<lab id>/<run>.<attempt>/   order.json train.py contract.json   written whole, by one rename: the guard
                                       judge.pid judge.log alive.lock      of the judge's own process
                                       out/                                the judge's --out; its scratch lies beside
    <root>/<lab id>/acknowledged/      one empty file for every attempt whose report was recorded
    <root>/locks/                      one lock file for every GPU and core

The rename makes an order whole or absent, also after a crash. Files only; processes are
`judge_process`. Candidates run as the same user and may write anything here, so nothing here proves anything: a
supervisor believes its own memory and its judge's pipe. Everything here may be deleted when no run is going on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Progress, RunOrder

ACKNOWLEDGED = "acknowledged"
LOCKS = "locks"
LOG_LIMIT_BYTES = 4 * 2**20  # carried to the driver: the judge caps run.log far below, a hostile file may not
TAIL_BYTES = 4096
FILE_LIMIT_BYTES = 4 * 2**20  # result.json, progress.json, order.json: kilobytes each


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

    def result(self) -> bytes | None:
        """result.json as it lies there, whoever wrote it; None without one, and when no judge writes one so large."""
        return _read(self.out / "result.json")

    def log(self, limit_bytes: int = LOG_LIMIT_BYTES) -> str:
        """The end of the candidate's log, "" without one."""
        return tail(self.out / "run.log", limit_bytes)

    def progress(self) -> Progress:
        """What the judge last said; the default before it says anything."""
        try:
            raw = json.loads(_read(self.out / "progress.json") or b"{}")
            step, loss = raw.get("step"), raw.get("loss")
            return Progress(
                phase=str(raw.get("phase") or "starting")[:40],
                elapsed_s=float(raw.get("elapsed_s") or 0.0),
                budget_s=float(raw.get("budget_s") or 0.0),
                step=None if step is None else int(step),
                loss=None if loss is None else float(loss),
            )
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return Progress()


class SpoolRoot:
    """All spools of one node."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, lab_id: str, run_id: str, attempt: int) -> Path:
        """Where an attempt's folder is, if there is one. Raises PoolProblem."""
        return self.root / _safe(lab_id) / _safe(f"{run_id}.{attempt}")

    def create(self, slot_id: str, order: RunOrder) -> Spool:
        """Lay out an attempt's folder, where nothing may be. Raises PoolProblem."""
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

    def find(self, lab_id: str, run_id: str, attempt: int) -> Spool | None:
        return _open(self.place(lab_id, run_id, attempt))

    def everything(self) -> tuple[Spool, ...]:
        """Attempts of all labs that were not acknowledged, by whoever they were made."""
        labs = [entry for entry in _folders(self.root) if entry.name != LOCKS]
        return tuple(spool for lab in labs for spool in self._scan(lab))

    def acknowledge(self, spool: Spool) -> None:
        """Remember the attempt's key and remove its folder. Raises PoolProblem."""
        lab = spool.directory.parent
        try:
            (lab / ACKNOWLEDGED).mkdir(exist_ok=True)
            (lab / ACKNOWLEDGED / spool.key).touch()
            self.discard(spool.directory)
        except OSError as problem:
            raise _disk_problem(self.root, problem) from None

    def discard(self, place: Path) -> None:
        """Remove an attempt's folder, or whatever is there instead, as if it had never come."""
        _remove(place)

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

    def _place(self, lab: Path, key: str, slot_id: str, order: RunOrder) -> Spool:
        beside = lab / f".{key}.{os.getpid()}"
        _remove(beside)
        try:
            _fill(beside, slot_id, order)
            beside.rename(lab / key)
        except OSError:
            _remove(beside)
            raise
        return Spool(lab / key, slot_id, order.lab_id, order.run_id, order.attempt)

    def _scan(self, lab: Path) -> Iterator[Spool]:
        for entry in _folders(lab):
            if (lab / ACKNOWLEDGED / entry.name).exists():  # removal was interrupted
                _remove(entry)
            elif spool := _open(entry):
                yield spool


def tail(path: Path, limit_bytes: int = TAIL_BYTES) -> str:
    """Last bytes of a text file, "" when it cannot be read."""
    try:
        with _open_plain(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit_bytes))
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
        raw = json.loads(_read(directory / "order.json") or b"")
        spool = Spool(directory, raw["slot_id"], raw["lab_id"], raw["run_id"], int(raw["attempt"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    place = (directory.parent.name, directory.name)
    return spool if place == (spool.lab_id, f"{spool.run_id}.{spool.attempt}") else None


def _folders(parent: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(parent))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and entry.name != ACKNOWLEDGED and not entry.name.startswith("."):
            yield Path(entry.path)


def _read(path: Path) -> bytes | None:
    try:
        with _open_plain(path) as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= FILE_LIMIT_BYTES else None


def _open_plain(path: Path) -> BinaryIO:
    """Open a regular file that no link leads to, and wait for nobody: candidates write here too. Raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(fd, "rb")


def _remove(path: Path) -> None:
    """Free a path at once, whatever lies there, then delete that; what resists stays behind under a hidden name."""
    aside = path.with_name(f".removed.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError, RecursionError):
        path.rename(aside)
        if not aside.is_dir() or aside.is_symlink():
            return aside.unlink()
        for folder, _, _ in os.walk(aside, followlinks=False):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                os.chmod(folder, 0o700)
        shutil.rmtree(aside, ignore_errors=True)


def _safe(name: str) -> str:
    """A name that is one path component. Raises PoolProblem."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise PoolProblem(f"{name!r} cannot name a folder of the spool")
    return name


def _disk_problem(root: Path, problem: OSError) -> PoolProblem:
    hint = "free some space there, or point ARSCHED_SPOOL at another disk"
    return PoolProblem(f"the spool at {root} cannot be written: {problem.strerror or problem}", hint)
