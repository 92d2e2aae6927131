"""Run a lab's search: begin it, or go on with the one that is not over yet, until its claim is on record.

One process at a time runs a lab, and one search at a time is on in a lab; both are found in the ledger, so that a
killed process is followed by another that continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

from scheduler.domain.errors import ArschedError, LabProblem
from scheduler.domain.proposal import Proposer
from scheduler.domain.search import Search, SearchSettings, SearchState
from scheduler.live import read_live
from scheduler.queue.drive import LOOK_S, heal, is_paused, serve, try_take
from scheduler.queue.ending import Ending
from scheduler.queue.interrupt import Interrupt
from scheduler.queue.means import Means
from scheduler.queue.progress import Screen, heartbeat
from scheduler.queue.turn import Turn
from scheduler.search.choices import make_proposers
from scheduler.search.night import SearchNight
from scheduler.search.notes import Notes
from scheduler.search.plan import plan_search
from scheduler.search.settings import UNION
from scheduler.search.supply import Supply
from scheduler.workspace import Workspace

LEFT = "its scheduler ended before the answer came"


@dataclass(frozen=True, slots=True)
class SearchEnding:
    """How this process left its search. `ending` DONE with `state` ENDED: the claim is on record.

    `number` None: there was nothing to go on with, `reason` says so.
    """

    ending: Ending
    number: int | None
    state: SearchState
    reason: str

    @property
    def nothing_to_do(self) -> bool:
        """Stop looping: the budget is spent, or the lab is paused."""
        return self.number is None or self.ending is Ending.PAUSED


def run_search(
    space: Workspace,
    screen: Screen,
    means: Means,
    settings: SearchSettings | None,
    proposers: Mapping[str, Proposer] | None = None,
    notes: Callable[[int], str] | None = None,
) -> SearchEnding:
    """Begin a search with `settings` or continue the lab's; `proposers` None: made by name from the settings.

    `notes` writes the brief of the ask of a number, where it shall be another than the lab's own.

    Raises UsageProblem for settings that cannot be, LabProblem while another process runs the search, ProposerProblem,
    and what the loop raises; nothing is lost by any of them.
    """
    turn = Turn(space.paths.turn_lock)
    _wait_for_turn(space, screen, means, turn)
    try:
        return _run(space, screen, means, turn, settings, proposers, notes or Notes(space))
    finally:
        turn.release()


def _run(
    space: Workspace,
    screen: Screen,
    means: Means,
    turn: Turn,
    settings: SearchSettings | None,
    proposers: Mapping[str, Proposer] | None,
    notes: Callable[[int], str],
) -> SearchEnding:
    heal(space, screen)
    plan = plan_search(space, settings)
    if plan is None:
        last = space.ledger.searches.list(space.tag)[-1]
        return SearchEnding(Ending.DONE, None, SearchState.ENDED, f"search {last.number} is over: {last.reason}")
    if is_paused(space) and not space.ledger.runs.running(space.tag):
        number = plan.unfinished.number if plan.unfinished else None
        return SearchEnding(Ending.PAUSED, number, SearchState.RUNNING, "the lab is paused")
    if proposers is None:
        slots, silent = means.options.slots, plan.is_closing
        proposers = {} if silent else make_proposers(space, plan.settings, slots, means.clock, screen.say)
    lost = space.ledger.proposals.lose_open(space.tag, LEFT)
    if lost:
        screen.say(f"note: {lost} idea{'s' if lost != 1 else ''} of an earlier process never came back")
    search = plan.begin(space, screen.say)
    with _night(space, search, proposers, notes, screen, means) as night:
        ending = serve(space, screen, means, turn, night)
    return SearchEnding(ending, search.number, night.state, night.reason)


@contextmanager
def _night(
    space: Workspace,
    search: Search,
    proposers: Mapping[str, Proposer],
    notes: Callable[[int], str],
    screen: Screen,
    means: Means,
) -> Iterator[SearchNight]:
    unions = any(choice.name == UNION for choice in search.settings.proposers)
    supply = Supply(space, search, proposers, unions=unions, brief=notes, clock=means.clock, say=screen.say)
    night = SearchNight(space, search, supply, means.clock, screen.say)
    leave: AbstractContextManager[None] = nullcontext()
    try:
        yield night
    except ArschedError:
        leave = suppress(ArschedError)  # the first problem is the one to tell
        raise
    finally:
        with leave, Interrupt(), heartbeat(screen, "ending the proposers"):
            night.close(LEFT)


def _wait_for_turn(space: Workspace, screen: Screen, means: Means, turn: Turn) -> None:
    told = False
    while not try_take(space, turn):
        live = read_live(space.paths.live)
        if live is not None and live.search and live.tag == space.tag:
            hint = "look on with `arsched watch`; end it with `arsched pause`, or touch .arsched/stop"
            raise LabProblem(
                f"search {live.search} of lab {live.tag!r} is run by another arsched (pid {live.pid})", hint
            )
        if not told and live is not None:
            screen.say(f"another arsched (pid {live.pid}) runs the queue; the search begins when it has ended")
            told = True
        if live is not None:
            screen.show(live)
        means.sleep(LOOK_S)
