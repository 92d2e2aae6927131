"""Run a lab's search: begin it, or go on with the unfinished one, until its claim is on record.

    running    ideas are asked for and queued           --budget over, or no proposer left-->
    claiming   what had begun is decided, then measured --claim recorded-->
    ended      what others submitted meanwhile is run

Every step reads the ledger afresh, so a killed process is followed by another that continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace

from scheduler.brief import read_brief_facts, write_brief
from scheduler.domain.candidate import Origin
from scheduler.domain.errors import ArschedError, LabProblem
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Run
from scheduler.domain.search import Proposer, Search, SearchSettings, SearchState
from scheduler.domain.text import count
from scheduler.lab import Workspace, is_paused, read_live
from scheduler.policy.budget import ideas_left, ideas_per_round, why_over
from scheduler.policy.explain import describe_claim
from scheduler.proposers.registry import UNION
from scheduler.queue.progress import Screen, heartbeat
from scheduler.queue.runner import LOOK_S, recover, run_queue, serve, try_take
from scheduler.queue.runtime import Interrupt, Runtime, SchedulerLock, StopReason
from scheduler.search.claim import (
    ClaimResult,
    cancel_unbegun,
    claim_estimate_s,
    is_drained,
    may_start_while_closing,
    measure_claim,
    spent,
)
from scheduler.search.options import make_proposers, plan_search
from scheduler.search.pipeline import ProposalPipeline, Room

TICK_S = 5.0
PROCESS_ENDED = "its scheduler ended before the answer came"


@dataclass(frozen=True, slots=True)
class SearchEnding:
    """How this process left its search. `ending` DONE with `state` ENDED: the claim is on record.

    `number` None: there was nothing to go on with, `reason` says so.
    """

    ending: StopReason
    number: int | None
    state: SearchState
    reason: str

    @property
    def nothing_to_do(self) -> bool:
        """Stop looping: the budget is spent, or the lab is paused."""
        return self.number is None or self.ending is StopReason.PAUSED


def run_search(
    space: Workspace,
    screen: Screen,
    means: Runtime,
    settings: SearchSettings | None,
    proposers: Mapping[str, Proposer] | None = None,
    notes: Callable[[int], str] | None = None,
) -> SearchEnding:
    """Begin a search with `settings` or continue the lab's; `proposers` None: made by name from the settings.

    `notes` writes the brief of the ask of a number, where it shall be another than the lab's own.

    Raises UsageProblem for settings that cannot be, LabProblem while another process runs the search, ProposerProblem,
    and what the loop raises; nothing is lost by any of them.
    """
    turn = SchedulerLock(space.paths.scheduler_lock)
    _wait_for_turn(space, screen, means, turn)
    try:
        recover(space, screen)
        plan = plan_search(space, settings)
        if plan is None:
            last = space.ledger.searches.list(space.tag)[-1]
            return SearchEnding(
                StopReason.DONE, None, SearchState.ENDED, f"search {last.number} is over: {last.reason}"
            )
        if is_paused(space) and not space.ledger.runs.running(space.tag):
            number = plan.unfinished.number if plan.unfinished else None
            return SearchEnding(StopReason.PAUSED, number, SearchState.RUNNING, "the lab is paused")
        if proposers is None:
            proposers = {} if plan.is_closing else make_proposers(space, plan.settings, means, screen.say)
        lost = space.ledger.proposals.lose_open(space.tag, PROCESS_ENDED)
        if lost:
            screen.say(f"note: {count(lost, 'idea')} of an earlier process never came back")
        search = plan.begin(space, screen.say)
        pipeline = ProposalPipeline(
            space,
            search,
            proposers,
            unions=any(choice.name == UNION for choice in search.settings.proposers),
            brief=notes or brief_writer(space),
            clock=means.clock,
            report=screen.say,
        )
        session = SearchSession(space, search, pipeline, means.clock, screen.say)
        with _closing(session, screen):
            ending = serve(space, screen, means, turn, session)
        return SearchEnding(ending, search.number, session.state, session.reason)
    finally:
        turn.release()


def continue_search(
    space: Workspace, screen: Screen, means: Runtime, settings: SearchSettings | None, ended_before: int
) -> SearchEnding:
    """`run_search` for a second process of one command, at whose start `ended_before` searches had ended.

    What that began is gone on with; where it has ended meanwhile, what others submitted is run, and no search begun.
    """
    if count_ended(space) == ended_before:
        begun = space.ledger.searches.current(space.tag) is not None
        return run_search(space, screen, means, None if begun else settings)
    last = space.ledger.searches.list(space.tag)[-1]
    return SearchEnding(run_queue(space, screen, means, lambda: False), last.number, last.state, last.reason)


def count_ended(space: Workspace) -> int:
    return sum(search.state is SearchState.ENDED for search in space.ledger.searches.list(space.tag))


def left_early(space: Workspace, ending: StopReason) -> SearchEnding:
    """How a search was left that no process runs now."""
    last = space.ledger.searches.current(space.tag)
    return SearchEnding(ending, last.number if last else None, last.state if last else SearchState.RUNNING, "")


def brief_writer(space: Workspace) -> Callable[[int], str]:
    """Writes the brief of the ask of a number, from facts that are read again only when the ledger has changed."""
    facts = space.ledger.per_stamp(lambda: read_brief_facts(space.ledger, space.lab))
    return lambda ask_number: write_brief(facts(), ask_number)


class SearchSession:
    """A search as the queue's loop sees it. `state` follows the ledger's row of the search.

    Places no runs and takes no decision of the promotion rule.
    """

    def __init__(
        self,
        space: Workspace,
        search: Search,
        pipeline: ProposalPipeline,
        clock: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        self._space, self._row, self._pipeline, self._clock, self._report = space, search, pipeline, clock, report
        self._ticked_at = clock()
        self._drained = self._has_bought = False

    @property
    def search(self) -> int:
        """Its number, for the live file; 0 once it has ended."""
        return 0 if self.state is SearchState.ENDED else self._row.number

    @property
    def state(self) -> SearchState:
        return self._row.state

    @property
    def reason(self) -> str:
        return self._row.reason

    def step(self, slots: int, *, resting: bool) -> None:
        """`resting`: take what was asked for, begin nothing."""
        self._tick(resting)
        self._pipeline.take_answers()
        if resting or self.state is SearchState.ENDED:
            return
        if self.state is SearchState.RUNNING:
            self._supply_or_close(slots)
        if self.state is SearchState.CLAIMING:
            self._close_down()

    def placeable(self, queued: Sequence[Run]) -> Sequence[Run]:
        """The queued runs that may start now."""
        if self.state is not SearchState.CLAIMING:
            return queued
        return [run for run in queued if may_start_while_closing(run, drained=self._drained)]

    def wants_more(self) -> bool:
        """Whether something is still to come although nothing is queued, running or undecided."""
        return self.state is not SearchState.ENDED

    def is_busy(self) -> bool:
        """Whether a proposer works on an ask."""
        return self._pipeline.open > 0

    def note(self) -> str:
        """What it does, in a few words for the screen."""
        if self.state is SearchState.CLAIMING:
            return "measuring the claim" if self._drained else "the budget is over, deciding what is undecided"
        asks = self._pipeline.open
        return f"{count(asks, 'idea')} being written" if asks else ""

    def close(self, reason: str) -> None:
        """The process leaves: what is asked for is lost, the search itself goes on at its next start."""
        try:
            self._count_time()
        finally:
            self._pipeline.close(reason)

    def _supply_or_close(self, slots: int) -> None:
        board, settings = self._read_board(), self._row.settings
        per_round = ideas_per_round(settings.budget, slots)
        ideas, asks, owed = self._pipeline.ideas, self._pipeline.open, self._owes_idea(board)
        now = spent(self._space, self._row, board, ideas=ideas, open_asks=asks, owed=owed)
        over = why_over(now, settings.budget, per_round, claim_estimate_s(self._space, self._row, board, slots))
        queued = self._space.ledger.runs.queued(self._space.tag)
        if over is None and slots:
            room = Room(settings.backlog or slots, slots, ideas_left(now, settings.budget, per_round), per_round)
            begun = self._pipeline.ask(board, queued, room)
            asking = begun or self._pipeline.has_proposers or self._pipeline.open
            if not (asking or queued or self._space.ledger.runs.running(self._space.tag) or board.undecided):
                over = f"no proposer is left to ask: {self._pipeline.why_none_left()}"
        if over is not None:
            self._space.ledger.searches.move(self._row.number, self._row.state, SearchState.CLAIMING, over)
            self._row = replace(self._row, state=SearchState.CLAIMING, reason=over)
            self._report(f"search    no more ideas: {over}")
            self._pipeline.close(over)

    def _owes_idea(self, board: LabSnapshot) -> bool:
        """Whether no idea of this search has had a slot yet, and one may."""
        if self._has_bought:
            return False
        waiting = False
        for standing in reversed(board.standings):
            came_at = self._space.ledger.candidates.get(standing.candidate_id, self._space.tag).submitted_at
            if came_at < self._row.started_at:
                break
            if standing.origin is Origin.PROPOSED:
                self._has_bought |= bool(standing.n or standing.failed_runs or standing.running_since)
                waiting |= standing.state.undecided
        return not self._has_bought and (waiting or (self._pipeline.has_proposers and not self._pipeline.ideas))

    def _close_down(self) -> None:
        cancelled = cancel_unbegun(self._space, self._read_board())
        if cancelled:
            self._report(f"cancelled {count(cancelled, 'idea')} that had not begun")
        board = self._read_board()
        drained = is_drained(self._space, board)
        if drained and not self._drained and self._row.settings.claim_runs and not board.first_baseline:
            self._report("claim     first and final baseline are measured anew, alternately on the same slots")
        self._drained = drained
        result = measure_claim(self._space, self._row, board) if drained else None
        if result is not None:
            self._end(result)

    def _read_board(self) -> LabSnapshot:
        return self._space.ledger.board(self._space.tag)

    def _end(self, result: ClaimResult) -> None:
        self._count_time()
        why = f"{self._row.reason}; {result.reason}"
        with self._space.ledger.transaction():
            if result.claim is not None:
                self._space.ledger.claims.record(self._space.tag, self._row.number, result.claim)
            self._space.ledger.searches.move(self._row.number, SearchState.CLAIMING, SearchState.ENDED, why)
        self._row = replace(self._row, state=SearchState.ENDED, reason=why)
        claim = result.claim
        self._report(f"claim     {describe_claim(claim) if claim and claim.first_scores else result.reason}")
        self._report(f"search    {self._row.number} is over: {why}")

    def _tick(self, resting: bool) -> None:
        """Time counts while the search is run: not while it is paused, and not once it is over."""
        if resting or self.state is SearchState.ENDED:
            self._ticked_at = self._clock()
        elif self._clock() - self._ticked_at >= TICK_S:
            self._count_time()

    def _count_time(self) -> None:
        passed_s, self._ticked_at = self._clock() - self._ticked_at, self._clock()
        if passed_s > 0 and self.state is not SearchState.ENDED:
            self._space.ledger.searches.tick(self._row.number, passed_s)
            self._row = replace(self._row, active_s=self._row.active_s + passed_s)


@contextmanager
def _closing(session: SearchSession, screen: Screen) -> Iterator[None]:
    """Closes the session however the block ends. Of two problems the first is raised."""
    leave: AbstractContextManager[None] = nullcontext()
    try:
        yield
    except ArschedError:
        leave = suppress(ArschedError)
        raise
    finally:
        with leave, Interrupt(), heartbeat(screen, "ending the proposers"):
            session.close(PROCESS_ENDED)


def _wait_for_turn(space: Workspace, screen: Screen, means: Runtime, turn: SchedulerLock) -> None:
    reported = False
    while not try_take(space, turn):
        live = read_live(space.paths.live)
        if live is not None and live.search and live.tag == space.tag:
            hint = "look on with `arsched watch`; end it with `arsched stop`, or touch .arsched/stop"
            raise LabProblem(
                f"search {live.search} of lab {live.tag!r} is run by another arsched (pid {live.pid})", hint
            )
        if not reported and live is not None:
            screen.say(f"another arsched (pid {live.pid}) runs the queue; the search begins when it has ended")
            reported = True
        if live is not None:
            screen.show(live)
        means.sleep(LOOK_S)
