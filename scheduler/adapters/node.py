"""Supervises one slot of a node: starts judges there, reports on them, ends them. Knows no Ray and no torch.

Truth is in the spool folder, not in this object: a supervisor made anew reports what an earlier one started. Finished
spools are Done, dead ones without a result Lost, those whose judge still lives Busy. One attempt at a time per slot.
Calls return at once, but for `stop`, which returns when the attempt is dead.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from scheduler.adapters.cache_probe import CacheFacts, probe_cache
from scheduler.adapters.compile_seeds import CompileSeeds
from scheduler.adapters.gpu import GpuProcess, GpuUnavailable, compute_processes
from scheduler.adapters.gpu_node import Lack, gpu_notes, toolchain_lacks
from scheduler.adapters.judge_environment import judge_environment
from scheduler.adapters.judge_process import (
    Commands,
    await_exit,
    end_judge,
    is_alive,
    is_locked,
    judge_arguments,
    start_judge,
)
from scheduler.adapters.slot_layout import SlotSpec
from scheduler.adapters.spool import Spool, SpoolRoot, tail
from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Busy, Done, Lost, Report, RunOrder, Slot

LEAST_FREE_MB = 256.0
LEAVE_AFTER_RESULT_S = 15.0  # a judge that has written its result has this long to end
FOREIGN_PATIENCE_S = 2.0  # NVML may list a process for a moment after its death


class SlotSupervisor:
    """The one who starts and ends runs on one slot. Not thread-safe; judges must not outlive the calling thread."""

    def __init__(
        self,
        spec: SlotSpec,
        spool_root: Path,
        commands: Commands | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
        gpu_processes: Callable[[str], tuple[GpuProcess, ...] | None] = compute_processes,
        gpu_lacks: Callable[[Mapping[str, str]], tuple[Lack, ...]] = toolchain_lacks,
        gpu_notes: Callable[[str], tuple[str, ...]] = gpu_notes,
    ) -> None:
        self.spec = spec
        self._spools = SpoolRoot(spool_root)
        self._seeds = CompileSeeds(spool_root)
        self._commands = commands or Commands()
        self._environ = environ
        self._clock = clock
        self._gpu_processes = gpu_processes
        self._gpu_lacks = gpu_lacks
        self._gpu_notes = gpu_notes
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}

    def probe(self, contract_json: str, lab_id: str = "") -> Slot:
        """The slot as it is now for runs of that contract and lab. Never raises: a broken slot has a `problem`."""
        cache = CacheFacts.none()
        notes: tuple[str, ...] = ()
        try:
            problem, notes = self._own_problem(lab_id), self._notes()
            cache = probe_cache(self._commands.cache, contract_json, self._spools.root, self._environ)
        except PoolProblem as raised:
            problem = _with_hint(raised)
        spec = self.spec
        return Slot(
            spec.slot_id, spec.node, spec.boot_id, spec.device, spec.device_name,
            pool=cache.pool_name(spec.device_name, spec.driver), cache_digest=cache.digest,
            problem=problem or cache.problem, notes=notes,
        )  # fmt: skip

    def start(self, order: RunOrder) -> bool:
        """Start an attempt and return. A second start of the same attempt changes nothing; False says that this one
        was acknowledged before and will not be reported again. Raises PoolProblem."""
        if hashlib.sha256(order.train_py).hexdigest() != order.train_sha256:
            raise PoolProblem(f"train.py of {order.key} arrived damaged on {self.spec.slot_id}", "submit it again")
        if self._spools.find(order.lab_id, order.run_id, order.attempt) is not None:
            return True
        if self._spools.was_acknowledged(order):
            return False
        self._refuse_unless_free(order.lab_id)
        spool = self._spools.create(self.spec.slot_id, order)
        if spool is not None:
            self._launch(spool, order)
        return True

    def poll(self, lab_id: str) -> tuple[Report, ...]:
        """A report for every attempt of one lab on this slot that was not acknowledged."""
        return tuple(self._report(spool) for spool in self._spools.of_lab(lab_id) if self._is_mine(spool))

    def acknowledge(self, lab_id: str, run_id: str, attempt: int) -> None:
        """The report is recorded: forget the attempt. A living one is left alone."""
        spool = self._spools.find(lab_id, run_id, attempt)
        if spool is not None and not is_alive(spool):
            self._reap(spool)
            self._spools.acknowledge(spool)

    def stop(self, lab_id: str, run_id: str, attempt: int) -> None:
        """End an attempt with everything it started; unknown ones are no error. Raises PoolProblem when it lives on."""
        spool = self._spools.find(lab_id, run_id, attempt)
        if spool is None or not is_alive(spool):
            return
        if not end_judge(spool, self._processes.get(spool.directory), self._lock()):
            raise PoolProblem(f"{spool.key} on {self.spec.slot_id} does not die", "look for its processes on the node")

    def busy(self) -> bool:
        """Whether any lab's judge lives on this slot."""
        return bool(self._labs_at_work())

    def close(self) -> None:
        """End every run on this slot, of whatever lab."""
        for spool in self._spools.everything():
            if self._is_mine(spool):
                self.stop(spool.lab_id, spool.run_id, spool.attempt)

    def _launch(self, spool: Spool, order: RunOrder) -> None:
        arguments = judge_arguments(spool, self.spec, order, self._lock()) + self._seeds.options(order)
        environment = judge_environment(self._environ, self.spec.uuid)
        try:
            self._processes[spool.directory] = start_judge(spool, [*self._commands.judge, *arguments], environment)
        except PoolProblem:
            self._spools.discard(spool)  # it never began: the same attempt may be started again
            raise

    def _report(self, spool: Spool) -> Report:
        who = (spool.slot_id, spool.run_id, spool.attempt)
        alive = is_alive(spool)  # before the result is read: a judge may write it and end in between
        result = spool.result_text()
        if alive and result is not None and self._overstays(spool):
            end_judge(spool, self._processes.get(spool.directory), self._lock())
            alive = is_alive(spool)
        if alive:
            return Busy(*who, spool.progress(), tail(spool.out / "run.log"))
        exit_code = self._reap(spool)
        if result is not None:
            return Done(*who, result, spool.log())
        return Lost(*who, _obituary(spool, exit_code))

    def _overstays(self, spool: Spool) -> bool:
        written_at = (spool.out / "result.json").stat().st_mtime
        return self._clock() - written_at > LEAVE_AFTER_RESULT_S

    def _reap(self, spool: Spool) -> int | None:
        """Exit code of a judge that let go of its lock; None when another supervisor started it."""
        process = self._processes.pop(spool.directory, None)
        return None if process is None else await_exit(process)

    def _is_mine(self, spool: Spool) -> bool:
        if spool.slot_id == self.spec.slot_id:
            return True
        siblings = self.spec.siblings
        of_this_node = spool.slot_id.startswith(f"{self.spec.node}/")
        return of_this_node and siblings[:1] == (self.spec.slot_id,) and spool.slot_id not in siblings

    def _labs_at_work(self) -> frozenset[str]:
        return frozenset(
            spool.lab_id for spool in self._spools.everything() if self._is_mine(spool) and is_alive(spool)
        )

    def _refuse_unless_free(self, lab_id: str) -> None:
        problem = self._own_problem(lab_id)
        if not problem and self.busy():
            problem = "a run is already going on"
        if problem:
            raise PoolProblem(f"{self.spec.slot_id} takes no run: {problem}")

    def _own_problem(self, lab_id: str) -> str:
        """Why that lab can place no run here, as far as it does not depend on the contract; "" when all is well."""
        if self.spec.problem:
            return self.spec.problem
        free_mb = self._spools.free_mb()
        if free_mb < LEAST_FREE_MB:
            return f"{free_mb:.0f} MB left on the disk of {self._spools.root}, {LEAST_FREE_MB:.0f} MB are needed"
        if at_work := self._labs_at_work():
            return "" if at_work == {lab_id} else "a run of another lab is going on"
        if is_locked(self._lock()):
            return f"another judge of this user holds {self._lock()}"
        return (self._foreign_processes() or self._toolchain_problem()) if self.spec.uuid else ""

    def _notes(self) -> tuple[str, ...]:
        """A run of ours holds memory and a context: of its GPU nothing is said meanwhile."""
        return self._gpu_notes(self.spec.uuid) if self.spec.uuid and not self.busy() else ()

    def _toolchain_problem(self) -> str:
        """Every candidate would end as a crash, and be blamed for it."""
        return "; ".join(map(str, self._gpu_lacks(judge_environment(self._environ, self.spec.uuid))))

    def _foreign_processes(self) -> str:
        """Processes on the slot's GPU that no judge of ours started: named, never killed. Where NVML may not list
        them nothing stands against a run: the slot has a note."""
        deadline = time.monotonic() + FOREIGN_PATIENCE_S
        try:
            while foreign := self._gpu_processes(self.spec.uuid):
                if time.monotonic() > deadline:
                    names = ", ".join(f"{process.pid} ({process.name})" for process in foreign)
                    return f"GPU {self.spec.index} is in use by process {names}"
                time.sleep(0.1)
        except GpuUnavailable as problem:
            return str(problem)
        return ""

    def _lock(self) -> Path:
        name = f"gpu-{self.spec.uuid}" if self.spec.uuid else f"cpu-{'-'.join(map(str, self.spec.cpus)) or 'none'}"
        return self._spools.lock_path(name)


def _obituary(spool: Spool, exit_code: int | None) -> str:
    if not spool.pid_path.exists():
        return "the node's supervisor ended before it could start the judge"
    ended = "" if exit_code is None else f" (exit code {exit_code})"
    said = tail(spool.judge_log_path).strip()
    return f"the judge ended without a result{ended}" + (f"; it said last:\n{said}" if said else "")


def _with_hint(problem: PoolProblem) -> str:
    return f"{problem.message}; {problem.hint}" if problem.hint else problem.message
