"""Supervises one slot of a node: starts judges there, reports on them, ends them. Knows no Ray and no torch.

A supervisor believes what it has in memory: the judges it started and the pipe to each. An attempt is Done when its
judge is dead and vouched for its result, else Lost. Spools that were here before it, an earlier supervisor's, are Busy
while their judge lives and then Lost, with or without a result: nobody is left who could vouch for one. A folder that
turns up later was made by nobody who may, and is no attempt. One attempt at a time per slot. Calls return at once, but
for those that end a judge, which return when it is dead.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.acceptance import longest_run_s, refusal
from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Busy, Done, Lost, Report, RunOrder, Slot
from scheduler.node.cache_probe import CacheFacts, probe_cache
from scheduler.node.compile_seeds import CompileSeeds
from scheduler.node.gpu import GpuProcess, GpuUnavailable, compute_processes
from scheduler.node.gpu_node import Lack, gpu_notes, toolchain_lacks
from scheduler.node.judge_environment import judge_environment
from scheduler.node.judge_process import (
    Commands,
    StartedJudge,
    end_inherited_judge,
    end_judge,
    is_alive,
    is_locked,
    judge_arguments,
    start_judge,
)
from scheduler.node.slot_layout import SlotSpec
from scheduler.node.spool import TAIL_BYTES, Spool, SpoolRoot, tail

LEAST_FREE_MB = 256.0
FOREIGN_PATIENCE_S = 2.0  # NVML may list a process for a moment after its death


@dataclass(slots=True)
class _Attempt:
    """An attempt this supervisor started. `ended`: why its judge was ended, or ""; `report`: the final one."""

    spool: Spool
    judge: StartedJudge
    longest_s: float
    overdue_at: float
    ended: str = ""
    report: Done | Lost | None = None


class SlotSupervisor:
    """The one who starts and ends runs on one slot. Not thread-safe; judges must not outlive the calling thread."""

    def __init__(
        self,
        spec: SlotSpec,
        spool_root: Path,
        commands: Commands | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
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
        self._attempts: dict[Path, _Attempt] = {}
        self._inherited = {spool.directory: spool for spool in self._spools.everything() if self._is_mine(spool)}

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
        place = self._spools.place(order.lab_id, order.run_id, order.attempt)
        if place in self._attempts:
            return True
        if self._spools.was_acknowledged(order):
            return False
        self._refuse_unless_free(order.lab_id)
        self._clear(place, order)
        self._launch(self._spools.create(self.spec.slot_id, order), order)
        return True

    def poll(self, lab_id: str) -> tuple[Report, ...]:
        """A report for every attempt of one lab on this slot that was not acknowledged."""
        own = [self._report(attempt) for attempt in self._attempts.values() if attempt.spool.lab_id == lab_id]
        inherited = [_report_inherited(spool) for spool in self._inherited.values() if spool.lab_id == lab_id]
        return tuple(sorted([*own, *inherited], key=lambda report: (report.run_id, report.attempt)))

    def acknowledge(self, lab_id: str, run_id: str, attempt: int) -> None:
        """The report is recorded: forget the attempt. A living one is left alone."""
        place = self._spools.place(lab_id, run_id, attempt)
        if (own := self._attempts.get(place)) is not None and not own.judge.is_alive():
            self._spools.acknowledge(own.spool)
            del self._attempts[place]
        if (spool := self._inherited.get(place)) is not None and not is_alive(spool):
            self._spools.discard(place)
            del self._inherited[place]

    def stop(self, lab_id: str, run_id: str, attempt: int) -> None:
        """End an attempt with everything it started; unknown ones are no error. Raises PoolProblem when it lives on."""
        place = self._spools.place(lab_id, run_id, attempt)
        dead = True
        if (own := self._attempts.get(place)) is not None:
            dead = not own.judge.is_alive() or end_judge(own.judge, self._lock())
        elif (spool := self._inherited.get(place)) is not None and is_alive(spool):
            dead = end_inherited_judge(spool, self._lock())
        if not dead:
            raise PoolProblem(f"{place.name} on {self.spec.slot_id} does not die", "look for its processes on the node")

    def busy(self) -> bool:
        """Whether any lab's judge lives on this slot."""
        return bool(self._labs_at_work())

    def close(self) -> None:
        """End every run on this slot, of whatever lab."""
        for spool in (*(attempt.spool for attempt in self._attempts.values()), *self._inherited.values()):
            self.stop(spool.lab_id, spool.run_id, spool.attempt)

    def _launch(self, spool: Spool, order: RunOrder) -> None:
        arguments = judge_arguments(spool, self.spec, order, self._lock()) + self._seeds.options(order)
        environment = judge_environment(self._environ, self.spec.uuid)
        try:
            judge = start_judge(spool, [*self._commands.judge, *arguments], environment)
        except PoolProblem:
            self._spools.discard(spool.directory)  # it never began: the same attempt may be started again
            raise
        longest_s = longest_run_s(order.contract_json)
        self._attempts[spool.directory] = _Attempt(spool, judge, longest_s, self._clock() + longest_s)

    def _clear(self, place: Path, order: RunOrder) -> None:
        """Remove what an earlier supervisor, or a candidate, left where an attempt is to be. Raises PoolProblem."""
        left = self._spools.find(order.lab_id, order.run_id, order.attempt)
        if left is not None and is_alive(left):
            raise PoolProblem(f"{self.spec.slot_id} takes no run: somebody else is at work on {order.key}")
        self._inherited.pop(place, None)
        self._spools.discard(place)

    def _report(self, attempt: _Attempt) -> Report:
        spool, judge = attempt.spool, attempt.judge
        if attempt.report is not None:
            return attempt.report
        if judge.is_alive() and not attempt.ended and self._clock() > attempt.overdue_at:
            attempt.ended = f"its judge did not end within {attempt.longest_s:.0f} s and was ended"
            end_judge(judge, self._lock())
        if judge.is_alive():
            return Busy(*_names(spool), spool.progress(), spool.log(TAIL_BYTES))
        result = spool.result()
        if why := attempt.ended or refusal(result, judge.digest_line, judge.exit_code):
            attempt.report = Lost(*_names(spool), _obituary(spool, why, judge.exit_code))
        else:
            assert result is not None
            attempt.report = Done(*_names(spool), result.decode(), spool.log())
        return attempt.report

    def _is_mine(self, spool: Spool) -> bool:
        if spool.slot_id == self.spec.slot_id:
            return True
        siblings = self.spec.siblings
        of_this_node = spool.slot_id.startswith(f"{self.spec.node}/")
        return of_this_node and siblings[:1] == (self.spec.slot_id,) and spool.slot_id not in siblings

    def _labs_at_work(self) -> frozenset[str]:
        """Labs with a living judge here, whoever started it: also one of another driver on this machine."""
        own = {attempt.spool.lab_id for attempt in self._attempts.values() if attempt.judge.is_alive()}
        others = {spool.lab_id for spool in self._spools.everything() if self._is_mine(spool) and is_alive(spool)}
        return frozenset(own | others)

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


def _report_inherited(spool: Spool) -> Report:
    if is_alive(spool):
        return Busy(*_names(spool), spool.progress(), spool.log(TAIL_BYTES))
    if not spool.pid_path.exists():
        return Lost(*_names(spool), "the node's supervisor ended before it could start the judge")
    return Lost(*_names(spool), "the node's supervisor ended before it could report this attempt")


def _names(spool: Spool) -> tuple[str, str, int]:
    return spool.slot_id, spool.run_id, spool.attempt


def _obituary(spool: Spool, why: str, exit_code: int | None) -> str:
    said = tail(spool.judge_log_path).strip()
    return f"{why} (exit code {exit_code})" + (f"; it said last:\n{said}" if said else "")


def _with_hint(problem: PoolProblem) -> str:
    return f"{problem.message}; {problem.hint}" if problem.hint else problem.message
