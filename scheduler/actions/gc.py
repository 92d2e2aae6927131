"""What a lab leaves on disk and nothing needs any more: found, measured, and removed.

Worktrees of decided candidates, scratch folders of proposers, spools that were harvested, caches of contracts that
nothing uses, records of ended labs (`gc_records.py`). Never a ref, a ledger or its copy, what a running queue uses, or
work in no commit. Killed anywhere, the next call goes on: a folder is renamed to a hidden name before it is deleted.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.contract import ContractError, load_contract, shipped_names
from harness.files import cache_root
from scheduler.actions.gc_records import folders_in, job_lock, records_of_laptops, records_of_runs
from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import ArschedError, GitProblem, LabProblem
from scheduler.domain.run import Running
from scheduler.git import Repo
from scheduler.lab import LabPaths, open_workspace
from scheduler.ledger import Ledger
from scheduler.node.judge_process import is_alive
from scheduler.node.spool import ACKNOWLEDGED, SpoolRoot, default_spool_root, open_spool
from scheduler.queue.runtime import SUBMIT_LOCK_S, SchedulerLock, exclusive

REMOVED = ".removed."
MANIFEST = "manifest.json"  # of a cache that is whole
DAY_S = 86400.0
BYTECODE = "__pycache__/"
EARLIER = "left by a gc that was killed"


class Leftover(NamedTuple):
    """`kind` is worktree, scratch, spool, lab, output, remote or cache; `bytes` is what it takes on the disk."""

    kind: str
    path: Path
    bytes: int
    reason: str


class Kept(NamedTuple):
    """What could have gone and stays."""

    path: Path
    reason: str


@dataclass
class Sweep:
    """`removed` are those that would be removed in a dry run."""

    removed: list[Leftover] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.removed)


def collect_garbage(
    days: float, *, dry_run: bool = False, start: Path | None = None, clock: Callable[[], float] = time.time
) -> Sweep:
    """Remove what is left over of this repository's labs and on this node. Caches go once unused for `days`, output of
    attempts once their lab has ended so long ago.

    While another process runs the queue its spools and scratch folders stay. Raises LabProblem, LedgerProblem.
    """
    with open_workspace(start=start) as space:
        turn = SchedulerLock(space.paths.scheduler_lock)
        is_ours = turn.try_take()
        try:
            with exclusive(space.paths.submit_lock, SUBMIT_LOCK_S):
                collector = _Collector(space.repo, space.paths, space.ledger, dry_run, days, clock())
                collector.sweep_worktrees()
                if is_ours:
                    collector.sweep_scratch()
                    collector.sweep_spools()
                    collector.sweep_records()
                else:
                    collector.keep(space.paths.proposals, "another arsched runs the queue")
                collector.sweep_caches()
        finally:
            turn.release()
    return collector.sweep


class _Collector:
    """One sweep, with the locks held. `now` in seconds since the epoch."""

    def __init__(self, repo: Repo, paths: LabPaths, ledger: Ledger, dry_run: bool, days: float, now: float) -> None:
        self._repo, self._paths, self._ledger = repo, paths, ledger
        self._dry_run, self._days, self._now, self._before = dry_run, days, now, now - days * DAY_S
        self._spools = SpoolRoot(default_spool_root())
        self.sweep = Sweep()

    def keep(self, path: Path, reason: str) -> None:
        if path.exists():
            self.sweep.kept.append(Kept(path, reason))

    def sweep_worktrees(self) -> None:
        """Of `arsched new`, clean, at the commit of a candidate that is decided."""
        decided = self._decided()
        self._finish_worktrees(decided)
        for path in self._repo.worktrees_in(self._paths.candidates):
            self._sweep_worktree(path, decided)
        if not self._dry_run:
            self._repo.forget_worktrees(self._paths.candidates)

    def _sweep_worktree(self, path: Path, decided: Mapping[str, Candidate]) -> None:
        try:
            head, _ = self._repo.uncommitted(path)
            reason = self._why_kept(path, decided)
        except GitProblem as problem:
            head, reason = "", problem.message
        if reason or head not in decided:
            self.keep(path, reason or "it was changed meanwhile")
        else:
            candidate = decided[head]
            self._remove("worktree", path, f"{candidate.id} {candidate.name} is {candidate.state}", self._drop)

    def _finish_worktrees(self, decided: Mapping[str, Candidate]) -> None:
        """Those that a killed gc had hidden and may not have looked at again: back to their places, to be swept anew.

        What git does not know any more had been looked at. One whose place is taken stays hidden.
        """
        for path in folders_in(self._paths.candidates):
            if not path.name.startswith(REMOVED):
                continue
            place = self._repo.place_of(path)
            if place is None:
                self._remove("worktree", path, EARLIER, _delete)
            elif self._dry_run:
                self._sweep_worktree(path, decided)
            elif place.exists():
                self.keep(path, f"a gc was killed at it, and its place {place.name} is taken: move it by hand")
            else:
                with suppress(OSError):  # the next one tries again
                    path.rename(place)

    def _why_kept(self, path: Path, decided: Mapping[str, Candidate]) -> str:
        """Why a worktree stays, "" when it may go. Raises GitProblem."""
        head, changed = self._repo.uncommitted(path)
        if head not in decided:
            return "its commit is of no decided candidate"
        if lost := [name for name in changed if not name.endswith(BYTECODE)]:
            return f"not committed: {', '.join(lost[:3])}"
        return "this command was started in it" if _is_here(path) else ""

    def _drop(self, path: Path) -> None:
        """Raises GitProblem when something was written there meanwhile."""
        decided = self._decided()
        if not self._repo.remove_worktree(path, _hidden(path), lambda place: not self._why_kept(place, decided)):
            raise GitProblem("it was changed meanwhile")

    def _decided(self) -> dict[str, Candidate]:
        """By their own commits; those that new candidates start from are not among them."""
        found: dict[str, Candidate] = {}
        for lab in self._ledger.labs.all():
            pending = {
                run.candidate_id for run in (*self._ledger.runs.queued(lab.tag), *self._ledger.runs.running(lab.tag))
            }
            done = [one for one in self._ledger.candidates.list(lab.tag) if not one.state.undecided and one.base_id]
            found |= {one.commit: one for one in done if one.id not in pending}
        return found

    def sweep_scratch(self) -> None:
        """Of proposers: with the queue's lock held none of them lives."""
        for proposer in folders_in(self._paths.proposals):
            for path in folders_in(proposer):
                drop = self._repo.drop_worktree if self._repo.has_worktree(path) else _delete
                self._remove("scratch", path, f"left by an ask of {proposer.name}", drop)

    def sweep_spools(self) -> None:
        """Of this repository's labs: attempts whose runs are over, and all of a lab in which nothing is to be done."""
        for lab in self._ledger.labs.all():
            folder = self._spools.root / lab.lab_id
            runs = self._ledger.runs
            held = {f"{run.id}.{run.state.attempt}" for run in runs.running(lab.tag) if isinstance(run.state, Running)}
            entries = [path for path in folders_in(folder) if path.name != ACKNOWLEDGED]
            alive = {path for path in entries if (spool := open_spool(path)) is not None and is_alive(spool)}
            if folder.is_dir() and not (held or alive or runs.queued(lab.tag)):
                self._remove("lab", folder, f"nothing of lab {lab.tag} is queued or runs", _delete)
                continue
            for path in entries:
                if path in alive or path.name in held:
                    self.keep(path, "its run is going on")
                else:
                    self._remove("spool", path, "its run is over, or has another attempt", _delete)

        self._sweep_hidden("lab", self._spools.root)

    def sweep_records(self) -> None:
        """With the queue's lock held: nothing is written there meanwhile."""
        for path, reason in records_of_runs(self._ledger, self._paths, self._before):
            self._remove("output", path, reason, _delete)
        self._sweep_hidden("output", self._paths.runs)
        remote = self._paths.truth / "remote"
        try:
            with exclusive(job_lock(remote), SUBMIT_LOCK_S) if job_lock(remote).parent.is_dir() else nullcontext():
                for path, reason in records_of_laptops(remote, self._now):
                    self._remove("remote", path, reason, _delete)
                for name in ("jobs", "files", "report"):
                    self._sweep_hidden("remote", remote / name)
        except LabProblem as problem:
            self.keep(remote, problem.message)

    def sweep_caches(self) -> None:
        """Whole caches of contracts that are neither shipped nor of a lab here, and what an earlier sweep left."""
        used = self._used_caches()
        for path in folders_in(cache_root()):
            if (path / MANIFEST).is_file() and path.name not in used and not path.name.startswith(REMOVED):
                name, seen = path.name.rpartition("-")[0], _last_use(path)
                if seen > self._before:
                    self.keep(path, f"of no lab here, but used within {self._days:g} days")
                else:
                    self._remove("cache", path, f"contract {name} as no lab here has it", _delete_cache)

        self._sweep_hidden("cache", cache_root())

    def _sweep_hidden(self, kind: str, folder: Path) -> None:
        for path in folders_in(folder):
            if path.name.startswith(REMOVED):
                self._remove(kind, path, EARLIER, _delete)

    def _used_caches(self) -> set[str]:
        """Names of their folders. A contract that cannot be read keeps its caches, whatever their digest."""
        contracts = {(lab.contract_name, lab.contract_digest) for lab in self._ledger.labs.all()}
        for ref in (*shipped_names(), *([str(self._paths.contract)] if self._paths.contract.exists() else [])):
            with suppress(ContractError):
                contract = load_contract(ref)
                contracts.add((contract.name, contract.digest))
        of_spools = {_contract_of(spool.directory) for spool in self._spools.everything()}
        return {f"{name}-{digest[:12]}" for name, digest in contracts} | of_spools

    def _remove(self, kind: str, path: Path, reason: str, remove: Callable[[Path], None]) -> None:
        found = Leftover(kind, path, size_of(path), reason)
        try:
            if not self._dry_run:
                remove(path)
        except (ArschedError, OSError) as problem:
            self.keep(path, f"cannot be removed: {problem}")
        else:
            self.sweep.removed.append(found)


def size_of(path: Path) -> int:
    """Bytes that a folder takes on the disk; links are not followed."""
    total = 0
    for folder, names, files in os.walk(path):
        for name in (".", *files, *(name for name in names if os.path.islink(os.path.join(folder, name)))):
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def _is_here(path: Path) -> bool:
    with suppress(OSError):  # the current folder was deleted
        return Path.cwd().is_relative_to(path)
    return False


def _hidden(path: Path) -> Path:
    return path.with_name(f"{REMOVED}{secrets.token_hex(8)}")


def _delete(path: Path) -> None:
    """Out of everybody's way by one rename first, unless that is what it is already. Raises OSError."""
    if not path.name.startswith(REMOVED):
        path = path.rename(_hidden(path))
    _open_up(path)
    for folder, names, _ in os.walk(path):  # which goes into them afterwards
        for name in names:
            _open_up(Path(folder, name))
    shutil.rmtree(path)


def _open_up(folder: Path) -> None:
    """Give its owner every right to a folder: a candidate may have closed it."""
    if not folder.is_symlink() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        folder.chmod(0o700)


def _delete_cache(path: Path) -> None:
    """Unless a `prepare` is at work on it. Raises OSError."""
    with open(path.with_name(f"{path.name}.lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError("arsched prepare is at work on it") from None
        _delete(path)


def _last_use(path: Path) -> float:
    """When a cache was last prepared or checked, as its neighbours in the cache's folder show."""
    marks = (path / MANIFEST, path.parent / "verified" / f"{path.name}.json")
    found = [mark.stat() for mark in marks if mark.exists()]
    return max(*(one.st_mtime for one in found), found[0].st_atime)  # a judge reads the manifest


def _contract_of(spool: Path) -> str:
    """Name of the cache's folder that an attempt uses; "" where that cannot be read."""
    with suppress(ContractError, OSError, ValueError):
        contract = load_contract(str(spool / "contract.json"))
        return f"{contract.name}-{contract.digest[:12]}"
    return ""
