"""What `init` and `submit` share on the command line: running the queue on a screen, and saying how it ended."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable

from scheduler.cli.output import say
from scheduler.domain.candidate import Candidate
from scheduler.domain.run import Queued, Run, Running
from scheduler.queue.ending import Ending
from scheduler.workspace import Workspace

INTERRUPTED, STOP_LOOPING = 130, 4
EXIT_CODES = {Ending.DONE: 0, Ending.INTERRUPTED: INTERRUPTED, Ending.PAUSED: STOP_LOOPING}


def run_and_watch(space: Workspace, candidates: Iterable[Candidate], address: str | None, slots: int | None) -> int:
    """Run the queue, or watch it, until these candidates are decided. Returns the exit code, 0 when they are."""
    from scheduler.queue.drive import run_queue
    from scheduler.queue.means import Means
    from scheduler.queue.pools import PoolOptions
    from scheduler.queue.progress import open_screen

    mine = tuple(candidate.id for candidate in candidates)
    with open_screen() as screen:
        ending = run_queue(space, screen, Means(PoolOptions(address, slots)), _settled(space, mine))
    if ending is Ending.INTERRUPTED:
        waiting = len(space.ledger.runs.queued(space.tag))
        say(f"stopped; {waiting} run{'s' if waiting != 1 else ''} queued, nothing is lost. Go on with: arsched submit")
    elif ending is Ending.PAUSED:
        say("paused: nothing new begins. Go on with: arsched resume, then: arsched submit")
    return EXIT_CODES[ending]


def pending_runs(space: Workspace, candidate_id: str) -> list[Run]:
    """Runs of a candidate that are queued or running."""
    return [run for run in space.ledger.runs.of_candidate(candidate_id) if isinstance(run.state, Queued | Running)]


def author() -> str:
    """Who submits."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "unknown"


def _settled(space: Workspace, candidate_ids: tuple[str, ...]) -> Callable[[], bool]:
    def settled() -> bool:
        candidates = [space.ledger.candidates.get(ref, space.tag) for ref in candidate_ids]
        return not any(one.state.undecided or pending_runs(space, one.id) for one in candidates)

    return settled
