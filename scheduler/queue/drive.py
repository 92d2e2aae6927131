"""Run the queue, or watch whoever runs it, until there is nothing left to wait for.

Several processes may ask at once: one has the turn and serves all of them; the others look on, and one takes over
when it dies. What a lab does in its turn is loop.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from scheduler.domain.errors import ArschedError, GitProblem, LabProblem
from scheduler.files import write_whole
from scheduler.live import Live, read_live
from scheduler.queue.companion import Companion
from scheduler.queue.deciding import next_decision
from scheduler.queue.ending import Ending
from scheduler.queue.interrupt import Interrupt
from scheduler.queue.loop import Loop
from scheduler.queue.means import Means
from scheduler.queue.pools import Joined
from scheduler.queue.progress import Screen, heartbeat
from scheduler.queue.promotion import follow_ledger, keep_refs
from scheduler.queue.turn import Turn
from scheduler.workspace import Workspace

LOOK_S = 0.5


def run_queue(space: Workspace, screen: Screen, means: Means, settled: Callable[[], bool]) -> Ending:
    """Run the whole queue when it is our turn; otherwise watch until `settled` says that ours is decided.

    Raises what the loop raises.
    """
    turn, told = Turn(space.paths.turn_lock), False
    while not try_take(space, turn):
        if settled():
            return Ending.DONE
        live = read_live(space.paths.live)
        if live is not None and not told:
            screen.say(_who_runs(live, space.tag))
            told = True
        if live is not None:
            screen.show(live)
        means.sleep(LOOK_S)
    try:
        return _take_turn(space, screen, means, turn)
    finally:
        turn.release()


def try_take(space: Workspace, turn: Turn) -> bool:
    """Whether the turn is ours now. Raises LedgerProblem when the ledger was lost while others had it, LabProblem."""
    space.ledger.ensure_present()  # before a lock is made in an empty folder
    return turn.try_take()


def is_paused(space: Workspace) -> bool:
    """Whether somebody paused the lab; what runs is finished all the same."""
    return space.ledger.labs.get(space.tag).paused_at is not None


def has_work(space: Workspace) -> bool:
    """Whether anything is queued, running or to be decided. Raises LabProblem when the baseline is hopeless."""
    runs = space.ledger.runs
    return bool(runs.queued(space.tag) or runs.running(space.tag)) or next_decision(space) is not None


def _who_runs(live: Live, tag: str) -> str:
    if live.tag == tag:
        return f"another arsched (pid {live.pid}) runs the queue; watching it (Ctrl-C leaves the queue to it)"
    return f"another arsched (pid {live.pid}) runs lab {live.tag!r}; this lab's turn comes after it"


def _take_turn(space: Workspace, screen: Screen, means: Means, turn: Turn) -> Ending:
    heal(space, screen)
    if not has_work(space):
        screen.say("nothing is queued and nothing runs")
        return Ending.DONE
    return serve(space, screen, means, turn)


def serve(
    space: Workspace, screen: Screen, means: Means, turn: Turn, companion: Companion | None = None
) -> Ending:  # fmt: skip
    """Run the queue in our turn until it is empty and the companion wants no more. Raises what the loop raises."""
    if is_paused(space) and not space.ledger.runs.running(space.tag):
        return Ending.PAUSED
    with _joined(space, screen, means) as joined, Interrupt() as interrupt:
        loop = Loop(space, joined, screen, interrupt, means, turn, companion)
        try:
            loop.run()
        except ArschedError:
            if not joined.outlives_us and turn.is_held():  # else the queue may be another process's by now
                with suppress(ArschedError):  # the first problem is the one to tell
                    loop.stop_all()
            raise
    if interrupt.finishing:
        return Ending.INTERRUPTED
    return Ending.PAUSED if loop.paused else Ending.DONE


def heal(space: Workspace, screen: Screen) -> None:
    """Finish what a crash left undone after the ledger had it; forget a wish to stop that came too late."""
    if space.paths.stop.exists():
        space.paths.stop.unlink(missing_ok=True)
        screen.say(f"note: removed {space.paths.stop}, left behind by an earlier night")
    if not space.paths.contract.exists():
        write_whole(space.paths.contract, space.lab.contract_json)
    try:
        keep_refs(space)
        follow_ledger(space)
    except (GitProblem, LabProblem) as problem:
        screen.say(f"note: {problem.message}; {problem.hint}")


@contextmanager
def _joined(space: Workspace, screen: Screen, means: Means) -> Iterator[Joined]:
    with heartbeat(screen, "starting the slots"):
        joined = means.connect(space.lab, means.options, screen.say)
    try:
        yield joined
    finally:
        with suppress(OSError):
            space.paths.live.unlink(missing_ok=True)
        with Interrupt(), heartbeat(screen, "leaving the slots"):
            joined.pool.close(stop_runs=not joined.outlives_us)
