"""Watching one candidate: a single-threaded loop over socket, log, exit, signals and deadlines, until a verdict falls.

After it nothing of the candidate is alive and the log is whole.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from typing import Self

from harness.judge import probes
from harness.judge.arguments import JudgeArgs
from harness.judge.clock import BudgetClock, CoreSpeed
from harness.judge.data import JudgeData
from harness.judge.evaluation import transports
from harness.judge.launch import CandidateProcess
from harness.judge.log import JudgeProgress, LogPump
from harness.judge.machine import GpuWatch, MachineWatch
from harness.judge.output import OutputFolder
from harness.judge.protocol_session import ProtocolSession
from harness.judge.report import JudgeResult, JudgeVerdict, kernel_memory_kills, verdict_of_exit
from harness.processes import reap_all

_TICK_S, _SPEED_TICK_S = 0.25, 0.1
_MOST_HIDDEN = 100  # data loaders and compilers start fewer; whoever hides 15 ms in each needs hundreds
_LAST_TURNS = 8  # more than a socket holds unread; a child that keeps the socket open is not waited for


class CandidateMonitor:
    """One run in progress, as a context: on leaving it the candidate and all it spawned are dead.

    `stop_signal` gives the name of a signal that asks the judge to stop, or None. The loop sleeps between events; it
    wakes a few times a second to read the clock, which costs microseconds.
    """

    def __init__(
        self,
        args: JudgeArgs,
        data: JudgeData,
        candidate: CandidateProcess,
        output: OutputFolder,
        stop_signal: Callable[[], str | None],
        speed: CoreSpeed | None = None,
    ) -> None:
        contract, on_gpu = args.contract, args.device is not None
        if on_gpu:  # torch reads these at its import, which is the judge's first use of it
            os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": args.visible_devices}
        self._contract, self._candidate, self._stop_signal = contract, candidate, stop_signal
        self._memory_kills_before = kernel_memory_kills()
        self._log = LogPump(candidate.log_fd, output.log_fd, int(contract.limits.log_mb * 2**20))
        self._clock = BudgetClock(contract.budget, candidate.cpu, speed)
        offered = transports(contract, args.exchange, on_gpu=on_gpu)
        self._session = ProtocolSession(args, data, candidate, self._clock, offered)
        self._machine = MachineWatch(args.cpus, GpuWatch(args.visible_devices) if on_gpu else None)
        self._progress = JudgeProgress(output, contract.budget.seconds)
        self._look_again_at = self._speed_look_at = 0.0

    def watch(self) -> JudgeVerdict:
        """Watch until something decides the run; after its score a candidate may finish within the teardown time."""
        verdict = self._until_verdict()
        self._session.stop_clock()
        self._machine.look_if_never()
        hidden = self._candidate.cpu.hidden()
        if verdict.status == "ok" and self._contract.budget.counts_cpu and hidden > _MOST_HIDDEN:
            return JudgeVerdict("suspect: hidden-cpu", f"{hidden} processes came and went without being counted")
        if verdict.status == "ok" and (slowed := self._machine.slowdown()):
            return JudgeVerdict("suspect: throttled", slowed)
        return verdict

    def fill(self, result: JudgeResult) -> None:
        """Note what the run showed; call once everything of it is dead."""
        session = self._session
        result.phases_s |= {phase: round(spent_s, 4) for phase, spent_s in session.timeline.spent_s.items()}
        result.score, result.telemetry, result.exchange = session.score, session.telemetry, session.exchange
        result.evaluation_charged_s = session.evaluation_charged_s
        if session.serving is not None and session.serving.probes is not None:
            result.holdout_bpb, result.probes = session.serving.holdout_bpb, probes.shown(session.serving.probes)
        result.used_s, result.train_wall_s, result.cpu_s = session.used_s, session.train_wall_s, session.cpu_s
        result.machine = self._machine.shown(session.speeds, result.calibration)
        result.cpu_clock = self._candidate.cpu.name
        result.ended, result.log_truncated = self._candidate.ended, self._log.truncated

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._candidate.end()
        self._session.timeline.close()
        self._progress.end_line()
        self._log.finish()
        self._session.close()

    def _until_verdict(self) -> JudgeVerdict:
        with selectors.DefaultSelector() as selector:
            selector.register(self._session.socket, selectors.EVENT_READ, self._session.listen)
            selector.register(self._log.fd, selectors.EVENT_READ, self._log.pump)
            selector.register(self._candidate.pidfd, selectors.EVENT_READ, self._reap)
            while True:
                for key, _ in selector.select(_SPEED_TICK_S if self._clock.in_work else _TICK_S):
                    if not key.data():
                        selector.unregister(key.fileobj)
                self._follow_speed()
                if self._candidate.ended is not None:
                    return self._after_exit(self._candidate.ended.exit_code)
                if (verdict := self._session.verdict or self._look_around()) is not None:
                    return verdict

    def _follow_speed(self) -> None:
        if (now := time.monotonic()) >= self._speed_look_at:
            self._speed_look_at = now + _SPEED_TICK_S
            self._session.follow_speed()

    def _reap(self) -> bool:
        reap_all(self._candidate.on_reaped)
        return True

    def _look_around(self) -> JudgeVerdict | None:
        """What no descriptor shows: signals, orphans, deadlines. A few times a second, however busy the log is."""
        if (now := time.monotonic()) < self._look_again_at:
            return None
        self._look_again_at = now + _TICK_S
        self._reap()
        self._show_progress()
        if (signal_name := self._stop_signal()) is not None:
            return JudgeVerdict("infra: interrupted", f"the judge was stopped by {signal_name}")
        usage = self._candidate.usage
        if usage is not None and (excess := usage.excess()) is not None:
            return excess
        return self._overdue()

    def _show_progress(self) -> None:
        session = self._session
        elapsed_s = session.used_s if session.used_s is not None else self._clock.used_s()
        if session.timeline.phase == "train":
            self._machine.look()
            session.telemetry.mark_loss(elapsed_s / self._contract.budget.seconds)
        self._progress.show(session.timeline.phase, elapsed_s, session.telemetry)

    def _overdue(self) -> JudgeVerdict | None:
        timeline, limits = self._session.timeline, self._contract.limits
        match timeline.phase:
            case "train":
                why = self._clock.overrun()
                return None if why is None else JudgeVerdict("timeout: train", f"training {why}")
            case "evaluate" if timeline.in_phase_s() > limits.evaluation_s:
                return JudgeVerdict("timeout: eval", f"the evaluation was not over after {limits.evaluation_s:g} s")
            case "teardown" if timeline.in_phase_s() > limits.teardown_s:
                reason = f"train.py did not end within {limits.teardown_s:g} s of its score and was killed"
                return JudgeVerdict("ok", reason)
            case "import" | "context" | "compile" if timeline.since_spawn_s() > limits.startup_s:
                return JudgeVerdict("timeout: startup", f"no training batch was taken within {limits.startup_s:g} s")
        return None

    def _after_exit(self, exit_code: int) -> JudgeVerdict:
        """What was sent just before the end still counts: a second EVAL, junk, a closing report."""
        for _ in range(_LAST_TURNS):
            if not self._session.listen():
                break
        if self._session.verdict is not None:
            return self._session.verdict
        if self._session.score is not None:
            reason = "" if exit_code == 0 else f"train.py ended with exit code {exit_code} after its score"
            return JudgeVerdict("ok", reason)
        killed_for_memory = kernel_memory_kills() > self._memory_kills_before
        self._log.pump()
        return verdict_of_exit(exit_code, self._log.tail_text(), kernel_killed_for_memory=killed_for_memory)
