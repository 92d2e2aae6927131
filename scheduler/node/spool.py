"""The spool: one folder on the node for every attempt at a run, from its order to its result; and the compile caches.

Files only; processes are `judge_process`. Candidates run as the same user and may write anything here, so nothing here
proves anything: a supervisor believes its own memory and its judge's pipe.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harness.files import cache_root, is_shared, node_folder
from scheduler.domain.errors import PoolProblem
from scheduler.domain.run import ResultError, parse_result
from scheduler.domain.slot import Progress, RunOrder

ACKNOWLEDGED = "acknowledged"
LOCKS = "locks"
JUDGE_PID, JUDGE_LOG, ALIVE = "judge.pid", "judge.log", "alive.lock"  # of an attempt's folder
COMPILED = ".compiled"
MOST_SEEDS = 8
PRESENCE_TRIES, PRESENCE_WAIT_S = 20, 0.01
LOG_LIMIT_BYTES = 4 * 2**20  # carried to the driver: the judge caps run.log far below, a hostile file may not
TAIL_BYTES = 4096
FILE_LIMIT_BYTES = 4 * 2**20  # result.json, progress.json, order.json: kilobytes each


def default_spool_root(environ: Mapping[str, str] = os.environ) -> Path:
    """ARSCHED_SPOOL, else `spool` in the cache folder (ARSCHED_CACHE, else the XDG one), or on this node's own disk.

    A cache may be shared by nodes; locks on a node's GPUs and cores, and judges found by their process id, may not.
    """
    if spool := environ.get("ARSCHED_SPOOL"):
        return Path(os.path.expanduser(spool)).absolute()
    root = cache_root(environ)
    return (node_folder() if is_shared(root) else root) / "spool"


@dataclass(frozen=True, slots=True)
class Spool:
    """One attempt's folder."""

    directory: Path
    slot_id: str
    lab_id: str
    run_id: str
    attempt: int

    @property
    def out(self) -> Path:
        return self.directory / "out"

    def result(self) -> bytes | None:
        """result.json as it lies there, whoever wrote it; None without one, or where it is larger than any judge's."""
        return _read(self.out / "result.json")

    def whole_result(self) -> str | None:
        """The text of a result.json that can be read as one, whoever wrote it."""
        with contextlib.suppress(ResultError, UnicodeDecodeError, RecursionError):
            text = (self.result() or b"").decode()
            parse_result(text)
            return text
        return None

    def log(self, limit_bytes: int = LOG_LIMIT_BYTES) -> str:
        """The end of the candidate's log, "" without one."""
        return read_tail(self.out / "run.log", limit_bytes)

    def judge_output(self) -> str:
        return read_tail(self.directory / JUDGE_LOG)

    def was_started(self) -> bool:
        return (self.directory / JUDGE_PID).exists()

    def holder(self) -> str:
        """Which lab's judge this is, in words. The pid is as noted there, where it is one: a candidate may write it."""
        pid = read_tail(self.directory / JUDGE_PID, 20)
        lab = "".join(c for c in self.lab_id.rpartition("-")[0] or self.lab_id if c.isprintable())
        return f"lab {lab}, judge {pid}" if pid.isdecimal() else f"lab {lab}"

    def progress(self) -> Progress:
        """The judge's last progress report; the default before its first."""
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
    """All spools of one node. Everything below `root` may be deleted when no run is going on.

    <lab id>/<run>.<attempt>/   order.json train.py contract.json   whole or absent, also after a crash: by one rename
                                judge.pid judge.log alive.lock      of the judge's own process
                                out/                                the judge's --out, its scratch next to it
    <lab id>/acknowledged/      one empty file for every attempt whose report was recorded
    locks/                      one lock file for every GPU and core, and one for every slot id with a supervisor
    .compiled/<key>/            left by a first baseline, whole, by the judge's rename; mtime: when last used
    .compiled/.<name>...        being written or removed, or left so by a process that was killed
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, lab_id: str, run_id: str, attempt: int) -> Path:
        """Where an attempt's folder is, if there is one. Raises PoolProblem."""
        return self.root / _safe(lab_id) / _safe(f"{run_id}.{attempt}")

    def create(self, slot_id: str, order: RunOrder) -> Spool:
        """Lay out an attempt's folder, where nothing may be. Raises PoolProblem."""
        place = self.place(order.lab_id, order.run_id, order.attempt)
        temporary = place.with_name(f".{order.key}.{os.getpid()}")
        with self._disk():
            (place.parent / ACKNOWLEDGED).mkdir(parents=True, exist_ok=True)
            self.discard(temporary)
            try:
                _fill(temporary, slot_id, order)
                temporary.rename(place)
            except OSError:
                self.discard(temporary)
                raise
        return Spool(place, slot_id, order.lab_id, order.run_id, order.attempt)

    def was_acknowledged(self, order: RunOrder) -> bool:
        """Whether this attempt was here before, reported and done with."""
        return (self.root / _safe(order.lab_id) / ACKNOWLEDGED / _safe(order.key)).exists()

    def everything(self) -> tuple[Spool, ...]:
        """Attempts of all labs that were not acknowledged, whichever supervisor made them."""
        found = []
        for folder in (folder for lab in _folders(self.root) if lab.name != LOCKS for folder in _folders(lab)):
            if (folder.parent / ACKNOWLEDGED / folder.name).exists():  # removal was interrupted
                self.discard(folder)
            elif spool := open_spool(folder):
                found.append(spool)
        return tuple(found)

    def acknowledge(self, spool: Spool) -> None:
        """Remember the attempt's key and remove its folder. Raises PoolProblem."""
        acknowledged = spool.directory.parent / ACKNOWLEDGED
        with self._disk():
            acknowledged.mkdir(exist_ok=True)
            (acknowledged / spool.directory.name).touch()
        self.discard(spool.directory)

    def discard(self, place: Path) -> None:
        """Free an attempt's place at once, whatever lies there, then delete that; what resists stays behind under a
        hidden name."""
        removed = place.with_name(f".removed.{secrets.token_hex(8)}")
        with contextlib.suppress(OSError, RecursionError):
            place.rename(removed)
            if not removed.is_dir() or removed.is_symlink():
                return removed.unlink()
            for folder, _, _ in os.walk(removed, followlinks=False):
                if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                    os.chmod(folder, 0o700)
            shutil.rmtree(removed, ignore_errors=True)

    def lock_path(self, name: str) -> Path:
        """Lock file of one GPU or core; its folder exists afterwards. Raises PoolProblem."""
        with self._disk():
            (self.root / LOCKS).mkdir(parents=True, exist_ok=True)
        return self.find_lock(name)

    def find_lock(self, name: str) -> Path:
        """Where that file is, if it is there."""
        return self.root / LOCKS / f"{_safe(name)}.lock"

    def hold_presence(self, slot_id: str) -> int | None:
        """A descriptor that says, while it is open, that a supervisor of that slot lives; None where that cannot be."""
        try:
            fd = os.open(
                self.lock_path(_presence(slot_id)), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except (OSError, PoolProblem):
            return None
        for _ in range(PRESENCE_TRIES):  # who looks holds it for an instant; a candidate may hold it for long
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two may live for a moment
                return fd
            time.sleep(PRESENCE_WAIT_S)
        os.close(fd)
        return None

    def is_present(self, slot_id: str) -> bool:
        """Whether any supervisor of that slot lives."""
        return is_held(self.find_lock(_presence(slot_id)), fcntl.LOCK_EX)

    def free_mb(self) -> float:
        """Free space in MB (2**20 bytes). Raises PoolProblem when the folder cannot be made."""
        with self._disk():
            self.root.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self.root).free / 2**20

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            hint = "free some space there, or point ARSCHED_SPOOL at another disk"
            reason = problem.strerror or problem
            raise PoolProblem(f"the spool at {self.root} cannot be written: {reason}", hint) from None


def seed_options(spool_root: Path, order: RunOrder) -> list[str]:
    """The judge's options for the compile caches a run starts with; notes the use and removes what is long unused.

    Nothing here fails a run: without a seed it starts cold. A judge copies a seed and holds a lock on the folder it
    reads or writes: one without may go.
    """
    if not order.compile_key:
        return []
    seed = spool_root / COMPILED / order.compile_key
    with contextlib.suppress(OSError):
        os.utime(seed)
    with contextlib.suppress(OSError):
        _prune_seeds(seed.parent)
    return ["--seed-caches", str(seed), *(["--keep-caches", str(seed)] if order.may_keep_caches else [])]


def read_tail(path: Path, limit_bytes: int = TAIL_BYTES) -> str:
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


def open_spool(directory: Path) -> Spool | None:
    """The attempt in a folder; None where its order cannot be read or is of another place."""
    try:
        raw = json.loads(_read(directory / "order.json") or b"")
        spool = Spool(directory, raw["slot_id"], raw["lab_id"], raw["run_id"], int(raw["attempt"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    place = (directory.parent.name, directory.name)
    return spool if place == (spool.lab_id, f"{spool.run_id}.{spool.attempt}") else None


def _folders(parent: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        folders = [Path(entry.path) for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False)]
        return [folder for folder in folders if folder.name != ACKNOWLEDGED and not folder.name.startswith(".")]
    return []


def _read(path: Path) -> bytes | None:
    try:
        with _open_plain(path) as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= FILE_LIMIT_BYTES else None


def is_held(path: Path, against: int) -> bool:
    """Whether a process holds a lock that keeps one of this kind (LOCK_SH or LOCK_EX) off; of no file none is held."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, against | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open_plain(path: Path) -> BinaryIO:
    """Open a regular file that no link leads to, without ever blocking: candidates write here too. Raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(fd, "rb")


def _presence(slot_id: str) -> str:
    """The name of its lock. A digest: what a spool says of its slot is read from where a candidate may write."""
    return f"slot-{hashlib.sha256(repr(slot_id).encode()).hexdigest()[:16]}"


def _safe(name: str) -> str:
    """A name that is one path component. Raises PoolProblem."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise PoolProblem(f"{name!r} cannot name a folder of the spool")
    return name


def _prune_seeds(root: Path) -> None:
    """Remove leftovers, and all but the latest used seeds. One process at a time; others leave it to that one."""
    with contextlib.suppress(BlockingIOError), _locked(root):
        folders = [Path(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
        seeds = [folder for folder in folders if not folder.name.startswith(".")]
        for leftover in set(folders) - set(seeds):
            _remove_seed(leftover, leftover)
        seeds.sort(key=lambda seed: seed.stat().st_mtime, reverse=True)
        for seed in seeds[MOST_SEEDS:]:
            _remove_seed(seed, seed.with_name(f".{seed.name}.old"))


def _remove_seed(folder: Path, hidden: Path) -> None:
    """Remove a folder that no judge holds; a seed disappears by one rename first."""
    with contextlib.suppress(BlockingIOError), _locked(folder):
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises BlockingIOError while another process, or another thread, holds the folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
