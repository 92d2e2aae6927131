"""The collect step: what the slots report becomes results in the ledger, or runs back in the queue.

A result counts once, only from the attempt that holds the run's lease, and only if it says that attempt's nonce. Its
artefacts are on disk before it is recorded, and recorded before its slot may forget it, so after a crash anywhere in
between asking again is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import PoolProblem, UsageProblem
from scheduler.domain.lab import Lab
from scheduler.domain.run import (
    THROTTLED,
    Finished,
    Infra,
    Result,
    ResultError,
    Run,
    RunKind,
    Running,
    Scored,
    infra_result,
    own_result,
    parse_result,
)
from scheduler.domain.slot import Busy, Done, Lost, Pool, Progress, Report, Slot, carries
from scheduler.lab import Workspace, write_whole
from scheduler.policy.no_result import charge, held_against
from scheduler.queue.runtime import PoolHandle, Runtime

Key = tuple[str, int]  # run id, attempt


class Collector:
    """Keeps between two polls what makes waiting fair: since when a run has not been heard of.

    `held` are the runs that had a lease when `collect` returned, by their attempt; `progress` is that of the busy ones.
    """

    def __init__(self, space: Workspace, handle: PoolHandle, runtime: Runtime, log: Callable[[str], None]) -> None:
        self._space, self._pool, self._log = space, handle.pool, log
        self._clock, self._timeouts = runtime.clock, runtime.timeouts
        self.held = held_runs(space)
        self._shorten_leases()
        # Where runs end with their driver, those of an earlier one were lost with it: not the runs' fault.
        self._orphans = set() if handle.detached else set(self.held)
        self._heard_at: dict[Key, float] = {}
        self._renewed_at: dict[Key, float] = {}
        self._stopped: set[Key] = set()
        self.progress: dict[Key, Progress] = {}

    def collect(self) -> bool:
        """Take every report once. Returns whether any run changed its state. Raises PoolProblem, LabProblem."""
        reports = self._pool.poll()
        self.held = held_runs(self._space)
        self.progress = {key_of(report): report.progress for report in reports if isinstance(report, Busy)}
        taken = [self._take(report, self.held.get(key_of(report))) for report in reports]
        heard = {key_of(report) for report in reports}
        unheard = {key: run for key, run in self.held.items() if key not in heard}
        changed = any([*taken, *self._requeue_unheard(unheard)])
        if changed:
            self.held = held_runs(self._space)
        return changed

    def _shorten_leases(self) -> None:
        """None is waited for longer than a fresh one: the clock may have been set back by hours since."""
        latest = self._clock() + self._timeouts.lease_s
        for key in self.held:
            if self._space.ledger.runs.attempts(key[0])[-1].expires_at > latest:
                self._space.ledger.runs.renew(*key, expires_at=latest)

    def stop_all(self) -> None:
        """Stop what runs and queue it again, uncounted: it is not the candidates' fault."""
        for (run_id, attempt), run in held_runs(self._space).items():
            assert isinstance(run.state, Running)
            self._stopped.add((run_id, attempt))
            _stop_if_possible(self._pool, run.state.slot_id, run_id, attempt)
        self.collect()
        for run_id, attempt in held_runs(self._space):
            self._space.ledger.runs.requeue(run_id, attempt, "stopped by hand", counts=False)

    def _take(self, report: Report, run: Run | None) -> bool:
        if run is None:
            return self._refuse(report)
        match report:
            case Busy():
                key, now = key_of(report), self._clock()
                self._heard_at[key] = now
                if now - self._renewed_at.get(key, 0.0) > self._timeouts.lease_s / 4:
                    self._space.ledger.runs.renew(*key, expires_at=now + self._timeouts.lease_s)
                    self._renewed_at[key] = now
                return False
            case Done() if not carries(report.result_text, self._space.ledger.runs.nonce(*key_of(report))):
                self._harvest(report)
                self._requeue(key_of(report), _describe_unvouched(report), None)
            case Done():
                self._record(report, run)
            case Lost(reason=reason):
                self._requeue(key_of(report), reason, None, from_outside=report.from_outside)
        self._pool.acknowledge(report.slot_id, report.run_id, report.attempt)
        return True

    def _refuse(self, report: Report) -> bool:
        """An attempt without the lease: cancelled, given to another slot meanwhile, or recorded before a crash."""
        if isinstance(report, Busy):
            _stop_if_possible(self._pool, report.slot_id, report.run_id, report.attempt)
            return False
        if isinstance(report, Done) and not self._is_recorded(report):
            self._harvest(report)
            self._space.ledger.runs.record(*key_of(report), read_report(report))  # writes why it is refused
        self._pool.acknowledge(report.slot_id, report.run_id, report.attempt)
        return False

    def _is_recorded(self, report: Done) -> bool:
        """Whether this very attempt is on record, or its run is none of this lab's."""
        try:
            run = self._space.ledger.runs.get(report.run_id, self._space.tag)
        except UsageProblem:
            return True
        return isinstance(run.state, Finished) and run.state.attempt == report.attempt

    def _record(self, report: Done, run: Run) -> None:
        self._harvest(report)
        candidate = self._space.ledger.candidates.get(run.candidate_id, self._space.tag)
        result = read_report(report)
        strange = _mismatch(result, run, candidate, self._space.lab)
        if strange:
            result = infra_result("mismatch", f"{report.slot_id} judged something else: {strange}")
        if self._is_throttled_first(report, result):
            machine = result.measured.machine
            slowed = f"{100 * (machine.throttled_share or 0):.0f} % of the training ({', '.join(machine.throttled)})"
            self._requeue(key_of(report), f"{report.slot_id} was slowed down for {slowed}", result)
        elif isinstance(result.verdict, Infra):
            self._requeue(key_of(report), f"{result.verdict.status}: {result.verdict.reason}", result)
        elif self._space.ledger.runs.record(run.id, report.attempt, result):
            state = self._space.ledger.runs.get(run.id, self._space.tag).state
            recorded = state.result if isinstance(state, Finished) else result  # as a suspect one, where it is a clone
            self._log(describe_result(run, candidate, report.slot_id, recorded))

    def _is_throttled_first(self, report: Done, result: Result) -> bool:
        """Whether its GPU was slowed down, which is repeated once with the same seed, elsewhere where that is free."""
        if not isinstance(result.verdict, Scored) or result.verdict.suspect != THROTTLED:
            return False
        attempts = self._space.ledger.runs.attempts(report.run_id)
        return not any(attempt.outcome == result.verdict.status for attempt in attempts)

    def _harvest(self, report: Done) -> None:
        write_whole(self._space.paths.log(*key_of(report)), report.log)
        write_whole(self._space.paths.result(*key_of(report)), report.result_text)

    def _requeue(self, key: Key, reason: str, result: Result | None, *, from_outside: bool = False) -> None:
        stopped, orphaned = key in self._stopped, key in self._orphans
        reason = "stopped by hand" if stopped else "it ended with its scheduler" if orphaned else reason
        counts = not stopped and not orphaned
        held = held_against(result, reason, from_outside=from_outside or not counts)
        self._forget(key)
        if held and self._charge(key, held):
            return
        state = self._space.ledger.runs.requeue(*key, reason, counts=counts, result=result, charge=held)
        if isinstance(state, Finished):
            self._log(f"given up  {key[0]} after {key[1]} attempts: {reason}")
        elif not stopped:
            self._log(f"again     {key[0]} goes back to the queue: {reason}")

    def _charge(self, key: Key, held: str) -> bool:
        """Finish the run as its candidate's failure where another slot holds something against it already."""
        *earlier, last = self._space.ledger.runs.attempts(key[0])
        failed = charge([*earlier, replace(last, charge=held)])
        if failed is None or not self._space.ledger.runs.record(*key, own_result(failed), held):
            return False
        self._log(f"failed    {key[0]} after {key[1]} attempts: {failed.reason}")
        return True

    def _requeue_unheard(self, unheard: Mapping[Key, Run]) -> list[bool]:
        if not unheard:
            return []
        slots = {slot.id: slot for slot in self._pool.slots()}
        expired = {run.id for run in self._space.ledger.runs.expired(self._space.tag, self._clock())}
        return [self._requeue_if_lost(key, run, slots, run.id in expired) for key, run in unheard.items()]

    def _requeue_if_lost(self, key: Key, run: Run, slots: Mapping[str, Slot], expired: bool) -> bool:
        """Queue a run again once it is sure that no slot computes it, or its lease has expired."""
        assert isinstance(run.state, Running)
        slot, now = slots.get(run.state.slot_id), self._clock()
        silent_s = now - self._heard_at.setdefault(key, now)
        if slot is not None and slot.boot_id and slot.boot_id != run.state.boot_id:
            self._requeue(key, f"{slot.node} was restarted", None, from_outside=True)
        elif slot is not None and not slot.problem and silent_s >= self._timeouts.unknown_s:
            self._space.ledger.runs.requeue(*key, f"{slot.id} never began it", counts=False)
            self._forget(key)
        elif expired and silent_s >= self._timeouts.unknown_s:  # a clock set forward alone makes nothing lost
            silent = f"{run.state.slot_id} was not heard of until its lease was over"
            self._requeue(key, silent, None, from_outside=True)
        else:
            return False
        return True

    def _forget(self, key: Key) -> None:
        self._heard_at.pop(key, None)
        self._renewed_at.pop(key, None)


def held_runs(space: Workspace) -> dict[Key, Run]:
    """Every run that is leased to a slot now, by its attempt."""
    running = space.ledger.runs.running(space.tag)
    return {(run.id, run.state.attempt): run for run in running if isinstance(run.state, Running)}


def key_of(report: Report) -> Key:
    return report.run_id, report.attempt


def _stop_if_possible(pool: Pool, slot_id: str, run_id: str, attempt: int) -> None:
    """A slot that is cut off cannot be asked; without the lease its result will not count either."""
    with suppress(PoolProblem):
        pool.stop(slot_id, run_id, attempt)


def read_report(report: Done) -> Result:
    """The result in a report; an `infra` one when it cannot be read."""
    try:
        return parse_result(report.result_text)
    except ResultError as problem:
        return infra_result("result", f"{report.slot_id} sent no readable result: {problem}")


def _describe_unvouched(report: Done) -> str:
    verdict = read_report(report).verdict
    said = verdict.status if isinstance(verdict, Scored) else f"{verdict.status}: {verdict.reason}"
    return f"its result.json ({said}) does not say the attempt's nonce, so its judge may not have written it"


def _mismatch(result: Result, run: Run, candidate: Candidate, lab: Lab) -> str:
    """What the result is about that was not ordered: contract, cache, train.py or seed; "" when all it says agrees.

    A result with a mismatch is the lab's fault, never the candidate's.
    """
    measured = result.measured
    pairs = (
        ("contract", measured.contract_digest, lab.contract_digest),
        ("cache", measured.cache_digest, lab.cache_digest),
        ("train.py", measured.train_sha256, candidate.train_sha256),
        ("seed", "" if measured.seed is None else str(measured.seed), str(run.seed)),
    )
    strange = [(what, got[:12], asked[:12]) for what, got, asked in pairs if got not in ("", asked)]
    return ", ".join(f"{what} {got} instead of {asked}" for what, got, asked in strange)


def describe_result(run: Run, candidate: Candidate, slot_id: str, result: Result) -> str:
    """One line for a finished run."""
    verdict, wall_s = result.verdict, result.measured.wall_s
    took = f", {wall_s:.0f} s" if wall_s is not None else ""
    if isinstance(verdict, Scored):
        text = f"val_bpb {verdict.val_bpb:.4f}" + (f" ({verdict.status})" if verdict.suspect else "")
    else:
        text = f"{verdict.status}: {verdict.reason}" if verdict.reason else verdict.status
    what = "claim run" if run.kind is RunKind.CLAIM else "result   "
    return f"{what} {candidate.id} {candidate.name}  {text}  ({run.id} on {slot_id}, seed {run.seed}{took})"
