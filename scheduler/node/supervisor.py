"""Supervises one slot of a node: starts judges there, reports on them, ends them; as an object and as a Ray actor.

Imports no Ray and no torch. Which results are believed is decided by `domain.slot.refusal`; processes are
`judge_process`, files are `spool`. The actor finds out which slot it is for and digests the code it runs; its
constructor never fails, or Ray would call it again without end.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.files import settle_folders
from scheduler.domain.errors import LabProblem, PoolProblem
from scheduler.domain.lab import SANDBOX_LEVELS
from scheduler.domain.slot import DIRTY, IN_USE, Busy, Done, Lost, Report, RunOrder, Slot, longest_run_s, refusal
from scheduler.node import judge_process
from scheduler.node.code import code_digest
from scheduler.node.gpu import GpuUnavailable, compute_processes, gpu_notes, missing_toolchain
from scheduler.node.harness_client import CacheFacts, SandboxFacts, ask_sandbox, probe_cache
from scheduler.node.judge_process import Commands, StartedJudge, end_inherited_judge, is_alive, sent_signal
from scheduler.node.machine import Machine, SlotSpec, lay_out, read_machine
from scheduler.node.spool import TAIL_BYTES, Spool, SpoolRoot, default_spool_root, open_spool, seed_options

LEAST_FREE_MB = 256.0
WANT_OF_MEMORY = " (the kernel sends it for want of memory: `dmesg` shows that)"
FOREIGN_WAIT_S = 2.0  # NVML may list a process for a while after its death


@dataclass(slots=True)
class _Attempt:
    """An attempt this supervisor started. `ended`: why its judge was ended, or ""; `report`: the final one."""

    spool: Spool
    judge: StartedJudge
    nonce: str
    longest_s: float
    overdue_at: float
    ended: str = ""
    report: Done | Lost | None = None


class SlotSupervisor:
    """Starts and ends all runs on one slot, one at a time. Not thread-safe; judges must not outlive the calling thread.

    It believes what it has in memory: the judges it started and the pipe to each. An attempt is Done when its judge is
    dead and vouched for its result, else Lost. Spools that were here before it, an earlier supervisor's, are Busy while
    their judge lives and then Done where a whole result lies there, which nothing here vouches for: the driver looks
    for its nonce. They are reported under this slot's id, whatever its node was called then, so that what the driver
    says about them arrives here. A folder that turns up later was made by no supervisor and is no attempt. Calls return
    at once, but for those that end a judge, which return when it is dead.
    """

    def __init__(
        self,
        spec: SlotSpec,
        spool_root: Path,
        commands: Commands | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._spools = SpoolRoot(spool_root)
        self._commands = commands or Commands()
        self._environ = environ
        self._clock = clock
        self._retired = False
        self._sandbox: SandboxFacts | None = None
        self._attempts: dict[Path, _Attempt] = {}
        if (presence := self._spools.hold_presence(spec.slot_id)) is not None:
            weakref.finalize(self, os.close, presence)
        self._inherited = {spool.directory: spool for spool in self._spools.everything() if self._is_mine(spool)}

    def probe(self, contract_json: str, lab_id: str = "", sandbox: str = "full") -> Slot:
        """The slot as it is now for runs of that contract, lab and sandbox. Never raises: it may have a `problem`."""
        spec, cache = self.spec, CacheFacts()
        notes: tuple[str, ...] = ()
        try:
            problem = self._own_problem(lab_id) or self._sandbox_problem(sandbox)
            if spec.uuid and not self.busy():  # a run of ours holds memory and a context
                notes = gpu_notes(spec.uuid)
            cache = probe_cache(self._commands.cache, contract_json, self._spools.root, self._environ)
        except PoolProblem as raised:
            problem = f"{raised.message}; {raised.hint}" if raised.hint else raised.message
        return Slot(
            spec.slot_id, spec.node, spec.boot_id, spec.device, spec.device_name,
            pool=cache.pool_name(spec.device_name, spec.driver, sandbox), cache_digest=cache.digest,
            problem=problem or cache.problem, notes=notes,
        )  # fmt: skip

    def start(self, order: RunOrder) -> bool:
        """Start an attempt and return. A second start of the same attempt changes nothing; False: this one was
        acknowledged before and will not be reported again. Raises PoolProblem."""
        if self._retired:
            raise PoolProblem("this slot's supervisor is being replaced by one of other code", "try again")
        if hashlib.sha256(order.train_py).hexdigest() != order.train_sha256:
            raise PoolProblem(f"train.py of {order.key} arrived damaged on {self.spec.slot_id}", "submit it again")
        place = self._spools.place(order.lab_id, order.run_id, order.attempt)
        if place in self._attempts:
            return True
        if self._spools.was_acknowledged(order):
            return False
        if problem := self._own_problem(order.lab_id) or ("a run is already going on" if self.busy() else ""):
            raise PoolProblem(f"{self.spec.slot_id} takes no run: {problem}")
        if (left := open_spool(place)) is not None and is_alive(left):
            raise PoolProblem(f"{self.spec.slot_id} takes no run: another supervisor's judge is running {order.key}")
        self._inherited.pop(place, None)
        self._spools.discard(place)  # what an earlier supervisor, or a candidate, left there
        self._launch(self._spools.create(self.spec.slot_id, order), order)
        return True

    def poll(self, lab_id: str) -> tuple[Report, ...]:
        """A report for every attempt of one lab on this slot that was not acknowledged."""
        own = [self._report(attempt) for attempt in self._attempts.values() if attempt.spool.lab_id == lab_id]
        left = [replace(spool, slot_id=self.spec.slot_id) for spool in self._inherited.values()]
        inherited = [_report_inherited(spool) for spool in left if spool.lab_id == lab_id]
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
        own, inherited = self._attempts.get(place), self._inherited.get(place)
        dead = own.judge.end(self._lock()) if own else not inherited or end_inherited_judge(inherited, self._lock())
        if not dead:
            raise PoolProblem(f"{place.name} on {self.spec.slot_id} does not die", "look for its processes on the node")

    def busy(self) -> bool:
        """Whether any lab's judge lives on this slot."""
        return bool(self._at_work())

    def retire(self) -> bool:
        """Take no order any more, unless a run is going on; whether that is so."""
        self._retired = not self.busy()
        return self._retired

    def close(self) -> None:
        """End every run on this slot, of whatever lab."""
        for spool in (*(attempt.spool for attempt in self._attempts.values()), *self._inherited.values()):
            self.stop(spool.lab_id, spool.run_id, spool.attempt)

    def _launch(self, spool: Spool, order: RunOrder) -> None:
        arguments = judge_process.judge_arguments(spool, self.spec, order, self._lock())
        command = [*self._commands.judge, *arguments, *seed_options(self._spools.root, order)]
        environment = judge_process.judge_environment(self._environ, self.spec.uuid)
        try:
            judge = judge_process.start_judge(spool, command, environment, order.nonce)
        except PoolProblem:
            self._spools.discard(spool.directory)  # it never began: the same attempt may be started again
            raise
        longest_s = longest_run_s(order.contract_json)
        overdue_at = self._clock() + longest_s
        self._attempts[spool.directory] = _Attempt(spool, judge, order.nonce, longest_s, overdue_at)

    def _report(self, attempt: _Attempt) -> Report:
        spool, judge = attempt.spool, attempt.judge
        if attempt.report is not None:
            return attempt.report
        if judge.is_alive() and not attempt.ended and self._clock() > attempt.overdue_at:
            attempt.ended = f"its judge did not end within {attempt.longest_s:.0f} s and was ended"
            judge.end(self._lock())
        if judge.is_alive():
            return Busy(*_names(spool), spool.progress(), spool.log(TAIL_BYTES))
        result = spool.result()
        if why := attempt.ended or refusal(result, judge.digest_line, judge.exit_code, attempt.nonce):
            attempt.report = _lost(spool, judge.exit_code, why, is_ended=bool(attempt.ended))
        else:
            assert result is not None
            attempt.report = Done(*_names(spool), result.decode(), spool.log())
        return attempt.report

    def _is_mine(self, spool: Spool) -> bool:
        """The first slot of a node also answers for all that nothing else does: slots that are no longer offered, and
        those of the node under another name, which it has while Ray's former one there is not yet missed."""
        siblings = self.spec.siblings
        if spool.slot_id in siblings or siblings[:1] != (self.spec.slot_id,):
            return spool.slot_id == self.spec.slot_id
        return not self._spools.is_present(spool.slot_id)

    def _at_work(self) -> list[Spool]:
        """Attempts with a living judge here, whoever started it: also those of another driver on this machine."""
        own = [attempt.spool for attempt in self._attempts.values() if attempt.judge.is_alive()]
        there = [spool for spool in self._spools.everything() if is_alive(spool)]
        return own + [s for s in there if s.slot_id == self.spec.slot_id or s.directory in self._inherited]

    def _own_problem(self, lab_id: str) -> str:
        """Why that lab can place no run here, as far as it does not depend on the contract; "" when all is well."""
        if self.spec.problem:
            return self.spec.problem
        free_mb = self._spools.free_mb()
        if free_mb < LEAST_FREE_MB:
            return f"{free_mb:.0f} MB left on the disk of {self._spools.root}, {LEAST_FREE_MB:.0f} MB are needed"
        if at_work := self._at_work():
            others = sorted({spool.holder() for spool in at_work if spool.lab_id != lab_id})
            return f"{IN_USE} ({'; '.join(others)})" if others else ""
        if judge_process.is_locked(self._lock()):
            holders = ", ".join(judge_process.lock_holders(self._lock())) or "that cannot be seen from here"
            return f"{DIRTY}its lock {self._lock()} is held by a process of no known run: {holders}"
        if not self.spec.uuid:
            return ""
        # Without a compiler every candidate would end as a crash, and be blamed for it.
        toolchain = missing_toolchain(judge_process.judge_environment(self._environ, self.spec.uuid))
        return self._foreign_processes() or "; ".join(map(str, toolchain))

    def _sandbox_problem(self, level: str) -> str:
        """Why the lab's sandbox is not to be had on this node: asked once, as a kernel does not change its mind."""
        if level == SANDBOX_LEVELS[-1]:
            return ""
        try:
            self._sandbox = self._sandbox or ask_sandbox(self._commands.sandbox, self._environ)
        except LabProblem as problem:
            return problem.message
        found = self._sandbox.problem(level)
        return f"{found}; a lab that does without: arsched init --sandbox {self._sandbox.best}" if found else ""

    def _foreign_processes(self) -> str:
        """Processes on the slot's GPU that no judge of ours started: named, never killed. Where NVML may not list
        them nothing stands against a run: the slot has a note."""
        deadline = time.monotonic() + FOREIGN_WAIT_S
        try:
            while foreign := compute_processes(self.spec.uuid):
                if time.monotonic() > deadline:
                    return f"{DIRTY}GPU {self.spec.index} is in use by process {', '.join(map(str, foreign))}"
                time.sleep(0.1)
        except GpuUnavailable as problem:
            return str(problem)
        return ""

    def _lock(self) -> Path:
        return self._spools.lock_path(lock_name(self.spec))


def lock_name(spec: SlotSpec) -> str:
    """Of the lock of a slot's GPU or core."""
    return f"gpu-{spec.uuid}" if spec.uuid else f"cpu-{'-'.join(map(str, spec.cpus)) or 'none'}"


def _lost(spool: Spool, exit_code: int | None, why: str, *, is_ended: bool) -> Lost:
    """`is_ended`: by its supervisor, because it was overdue."""
    number = 0 if is_ended else sent_signal(exit_code)
    if number:
        why = f"its judge was ended by signal {number} from outside{WANT_OF_MEMORY * (number == signal.SIGKILL)}: {why}"
    output = spool.judge_output().strip()
    last = f"; its last output:\n{output}" if output else ""
    return Lost(*_names(spool), f"{why} (exit code {exit_code}){last}", from_outside=number > 0)


def _report_inherited(spool: Spool) -> Report:
    if is_alive(spool):
        return Busy(*_names(spool), spool.progress(), spool.log(TAIL_BYTES))
    if (text := spool.whole_result()) is not None:
        return Done(*_names(spool), text, spool.log())
    undone = "report this attempt" if spool.was_started() else "start the judge"
    return Lost(*_names(spool), f"the node's supervisor ended before it could {undone}", from_outside=True)


def _names(spool: Spool) -> tuple[str, str, int]:
    return spool.slot_id, spool.run_id, spool.attempt


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How supervisors work on every node. None: each node's own default."""

    spool_root: Path | None = None
    commands: Commands | None = None


@dataclass(frozen=True, slots=True)
class SlotAssignment:
    """A place for one actor: the `index`-th of `count` on a node, for contracts of one device."""

    node: str
    device: str  # "cpu" or "cuda"
    index: int
    count: int
    code: str  # digest of the code that asks for it


class SlotActor(SlotSupervisor):
    """The supervisor of the slot that Ray assigned to this process."""

    def __init__(self, assignment: SlotAssignment, settings: NodeSettings) -> None:
        settle_folders()
        machine = read_machine(assignment.device == "cuda")
        spec = find_spec(assignment, machine, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        super().__init__(spec, settings.spool_root or default_spool_root(), settings.commands)


def find_spec(assignment: SlotAssignment, machine: Machine, visible_gpus: str) -> SlotSpec:
    """The slot of an assignment. A GPU is the one Ray reserved, which its environment names by index or UUID.

    Ray's own books count GPUs in NVML's order.
    """
    node, device, index = assignment.node, assignment.device, assignment.index
    specs = lay_out(machine, node, device, assignment.count if device == "cpu" else None)
    if device == "cuda":
        visible = visible_gpus or "none"
        found = [spec for spec in specs if visible == str(spec.index) or spec.uuid.startswith(visible)]
        problem = machine.gpu_problem or f"Ray reserved GPU {visible_gpus!r}, NVML lists no such one"
    else:
        found = list(specs[index : index + 1])
        problem = f"the node lets arsched use {len(machine.cores)} cores, this would be number {index + 1}"
    broken = SlotSpec(node, device, index, boot_id=machine.boot_id, problem=problem)
    spec = found[0] if found else broken
    here = code_digest()
    if here != assignment.code:
        other = f"node {node} runs other arsched code ({here}) than this driver ({assignment.code}); update the node"
        return replace(spec, problem=other)
    return spec
