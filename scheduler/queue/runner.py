"""Run the queue, or watch the process that runs it, until there is nothing left to wait for.

Of several processes that ask at once, one has the scheduler lock and serves all of them; the others look on, and one
takes over when it dies. What is done with the lock is loop.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from scheduler.domain.errors import ArschedError, GitProblem, LabProblem
from scheduler.lab import Workspace, is_paused, read_live, show_runs, write_whole
from scheduler.queue.decide import follow_ledger, is_decision_due, keep_refs
from scheduler.queue.loop import Loop, LoopHook
from scheduler.queue.progress import Screen, heartbeat
from scheduler.queue.runtime import Interrupt, PoolHandle, Runtime, SchedulerLock, StopReason

LOOK_S = 0.5


def run_queue(space: Workspace, screen: Screen, runtime: Runtime, settled: Callable[[], bool]) -> StopReason:
    """Run the whole queue once the lock is ours; until then watch, and leave when `settled` says that ours is decided.

    Raises what the loop raises.
    """
    lock, named = SchedulerLock(space.paths.scheduler_lock), False
    while not try_take(space, lock):
        if settled():
            return StopReason.DONE
        live = read_live(space.paths.live)
        if live is not None:
            if not named:
                who = f"another arsched (pid {live.pid}) runs"
                ours = f"{who} the queue; watching it (Ctrl-C leaves the queue to it)"
                screen.say(ours if live.tag == space.tag else f"{who} lab {live.tag!r}; this lab's turn comes after it")
                named = True
            screen.show(live)
        runtime.sleep(LOOK_S)
    try:
        recover(space, screen)
        if not has_work(space):
            screen.say("nothing is queued and nothing runs")
            return StopReason.DONE
        return serve(space, screen, runtime, lock)
    finally:
        lock.release()


def try_take(space: Workspace, lock: SchedulerLock) -> bool:
    """Whether the lock is ours now. Raises LedgerProblem when the ledger was lost while others had it, LabProblem."""
    space.ledger.ensure_present()  # before a lock is made in an empty folder
    return lock.try_take()


def has_work(space: Workspace) -> bool:
    """Whether anything is queued, running or to be decided. Raises LabProblem when the baseline is hopeless."""
    runs = space.ledger.runs
    return bool(runs.queued(space.tag) or runs.running(space.tag)) or is_decision_due(space)


def serve(
    space: Workspace, screen: Screen, runtime: Runtime, lock: SchedulerLock, hook: LoopHook | None = None
) -> StopReason:  # fmt: skip
    """Run the queue, holding the lock, until it is empty and the hook wants no more. Raises what the loop raises."""
    if is_paused(space) and not space.ledger.runs.running(space.tag):
        return StopReason.PAUSED
    with _connected(space, screen, runtime) as handle, Interrupt() as interrupt:
        loop = Loop(space, handle, screen, interrupt, runtime, lock, hook)
        try:
            loop.run()
        except ArschedError:
            if not handle.detached and lock.is_held():  # else the queue may be another process's by now
                with suppress(ArschedError):  # the first problem is the one to report
                    loop.stop_all()
            raise
        finally:
            loop.back_up()
    if interrupt.finishing:
        with suppress(OSError):
            space.paths.stop.unlink(missing_ok=True)
        by_request = interrupt.by_request and not interrupt.stopping
        return StopReason.STOPPED if by_request else StopReason.INTERRUPTED
    return StopReason.PAUSED if loop.paused else StopReason.DONE


def recover(space: Workspace, screen: Screen) -> None:
    """Finish what a crash left undone after the ledger had it; remove a request to stop that came too late.

    Raises LedgerProblem when the ledger is damaged.
    """
    space.ledger.ensure_sound()
    if space.paths.stop.exists():
        space.paths.stop.unlink(missing_ok=True)
        screen.say(f"note: removed {space.paths.stop}, left behind by an earlier run of the queue")
    show_runs(space.paths)
    if not space.paths.contract.exists():
        write_whole(space.paths.contract, space.lab.contract_json)
    try:
        keep_refs(space)
        follow_ledger(space)
    except (GitProblem, LabProblem) as problem:
        screen.say(f"note: {problem.message}; {problem.hint}")


@contextmanager
def _connected(space: Workspace, screen: Screen, runtime: Runtime) -> Iterator[PoolHandle]:
    with heartbeat(screen, "starting the slots"):
        handle = runtime.connect(space.lab, runtime.options, screen.say)
    try:
        yield handle
    finally:
        with suppress(OSError):
            space.paths.live.unlink(missing_ok=True)
        if not handle.kept:
            with Interrupt(), heartbeat(screen, "leaving the slots"):
                handle.pool.close(stop_runs=not handle.detached)
