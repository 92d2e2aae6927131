"""One run from launch to result.json: the judge's table of contents.

Output folder, lock, cache, launch, watching, end, and the result, which is written last whatever happened before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.cache import Cache, CacheError, CacheMissing, open_cache, require_calibration
from harness.containment import FORWARDED_SIGNALS, Containment, keep_open_until_all_dead
from harness.core_probe import CoreProbe
from harness.judge.arguments import JudgeArgs
from harness.judge.clock import SMOOTHED, CoreSpeed
from harness.judge.compile_caches import keep_caches, seed_caches
from harness.judge.cpu_time import OthersShare
from harness.judge.data import JudgeData, judge_data
from harness.judge.launch import Scratch, launch
from harness.judge.monitor import CandidateMonitor
from harness.judge.output import OutputFolder, claim_output, send_digest
from harness.judge.report import InfraFailure, JudgeResult, JudgeVerdict, verdict_with_output
from harness.processes import descendants
from harness.sandbox.kernel import forbid_dumping, make_read_only

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCK_PATIENCE_S = 10.0  # a run that has just been killed may take a while to let go of its GPU
_RETRY_S = 0.05


def run_judge(args: JudgeArgs, containment: Containment) -> int:
    """Run the candidate, write result.json, print the verdict on standard error; returns the exit code."""
    forbid_dumping()  # the candidate has this process's user id, and sees it in /proc
    interrupt = JudgeInterrupt(own_namespace=containment == "namespace")
    result = JudgeResult(args, containment)
    try:
        with claim_output(args.out) as output:
            verdict = _judge(args, result, interrupt, output)
            verdict = verdict_with_output(verdict, output.settle())
            text = result.to_json(verdict)
            output.put_result(text)
            if args.digest_fd is not None:
                send_digest(args.digest_fd, text, args.nonce)
    except InfraFailure as failure:  # the output folder is not ours to write to
        verdict = failure.verdict
    except OSError as error:
        verdict = JudgeVerdict("infra: output", f"cannot write the result: {error}")
    figure = f"  val_bpb {result.score.val_bpb:.6f}" if result.score is not None and verdict.scored else ""
    reason = f"  {verdict.reason}" if verdict.reason else ""
    sys.stderr.write(f"{verdict.status}{figure}{reason}\n")
    return verdict.exit_code


def _judge(args: JudgeArgs, result: JudgeResult, interrupt: JudgeInterrupt, output: OutputFolder) -> JudgeVerdict:
    try:
        with hold_lock(args.lock, interrupt) as lock_fd:
            result.cache = _open_cache(args)
            if interrupt.own_namespace:  # descriptors of training rows lead the candidate to the judge's own mounts
                make_read_only(str(result.cache.directory))
            speed = _core_speed(args, result)
            with judge_data(result.cache) as data:
                return _run_candidate(args, data, result, interrupt, output, lock_fd, speed)
    except InfraFailure as failure:
        return failure.verdict
    except CacheError as error:
        return JudgeVerdict("infra: cache", f"{error} ({error.hint})" if error.hint else str(error))
    except OSError as error:
        return JudgeVerdict("infra: disk" if error.errno in _DISK_FULL else "infra: judge", str(error))
    except Exception as error:  # a fault of the judge's must not pass for one of the candidate's, nor go unrecorded
        return JudgeVerdict("infra: judge", f"{type(error).__name__}: {error}")


def _run_candidate(
    args: JudgeArgs,
    data: JudgeData,
    result: JudgeResult,
    interrupt: JudgeInterrupt,
    output: OutputFolder,
    lock_fd: int | None,
    speed: CoreSpeed | None,
) -> JudgeVerdict:
    if args.sandbox == "full" and not interrupt.own_namespace:
        hint = "(--sandbox weak for one run, arsched init --sandbox weak for a lab)"
        raise InfraFailure("sandbox", f"a full sandbox needs a PID namespace, and there is none here {hint}")
    scratch = Scratch.make(args.out, args.contract, result.train_py)
    try:
        result.seeded = seed_caches(args.seed_caches, scratch.caches)
        candidate, result.sandbox = launch(args, data.cache, scratch, lock_fd, own_namespace=interrupt.own_namespace)
        result.launched, result.all_dead = True, False
        try:
            with CandidateMonitor(args, data, candidate, output, interrupt.signal_name, speed) as monitor:
                verdict = monitor.watch()
            monitor.fill(result)
        finally:
            result.all_dead = candidate.end()
            candidate.close()
        if result.all_dead and verdict.status == "ok":
            keep_caches(scratch.caches, args.keep_caches)
    finally:
        scratch.remove()
    if not result.all_dead:
        raise InfraFailure("kill", "a process of this run would not die of SIGKILL")
    return verdict


def _core_speed(args: JudgeArgs, result: JudgeResult) -> CoreSpeed | None:
    """What a work clock measures the core with; None for other clocks. Raises InfraFailure."""
    if args.contract.budget.clock != "work":
        return None
    try:
        calibration = require_calibration(args.contract)
    except CacheMissing as missing:
        raise InfraFailure("calibration", f"{missing} ({missing.hint})") from None
    result.calibration = calibration.name
    return CoreSpeed(CoreProbe().read, calibration.reference_s, OthersShare(args.cpus, SMOOTHED))


def _open_cache(args: JudgeArgs) -> Cache:
    cache = open_cache(args.contract)
    if args.expect_cache not in (None, cache.digest):
        due = str(args.expect_cache)[:12]
        raise InfraFailure("cache", f"the prepared cache here is {cache.digest[:12]}, expected {due}")
    return cache


@contextmanager
def hold_lock(path: Path | None, interrupt: JudgeInterrupt) -> Iterator[int | None]:
    """Hold the run's lock file, which fences a GPU or a core; yields its descriptor.

    The lock is the kernel's: it falls when the last process that holds it is gone, and in a PID namespace not before
    everything in that is dead. Raises InfraFailure.
    """
    if path is None:
        yield None
        return
    try:
        lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InfraFailure("lock", f"cannot open the lock {path}: {error.strerror}") from error
    try:
        _wait_for_lock(lock_fd, path, interrupt)
        keep_open_until_all_dead(lock_fd)
        yield lock_fd
    finally:
        os.close(lock_fd)


def _wait_for_lock(lock_fd: int, path: Path, interrupt: JudgeInterrupt) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if (signal_name := interrupt.signal_name()) is not None:
            raise InfraFailure("interrupted", f"the judge was stopped by {signal_name}")
        if time.monotonic() > deadline:
            raise InfraFailure("lock", f"{path} is held by another run: its device is not free")
        time.sleep(_RETRY_S)


class JudgeInterrupt:
    """Ctrl-C, SIGTERM and SIGHUP as something the judge asks for, never as an exception in the middle of a step.

    They are blocked and stay so, a second and a third included; those that the candidate sends are not obeyed.
    """

    def __init__(self, *, own_namespace: bool) -> None:
        self.own_namespace = own_namespace
        self._name: str | None = None

    def signal_name(self) -> str | None:
        """The first signal that has come from outside the run, or None."""
        while self._name is None:
            info = signal.sigtimedwait(FORWARDED_SIGNALS, 0)
            if info is None:
                return None
            # Processes outside the judge's namespace have no number inside it: they, and the terminal, send as 0.
            if not (info.si_pid > 0 if self.own_namespace else info.si_pid in descendants(os.getpid())):
                self._name = signal.Signals(info.si_signo).name
        return self._name
