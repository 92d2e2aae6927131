"""A search as the loop's companion: it supplies ideas until the budget is over, then closes with the claim.

    running    ideas are asked for and queued           --budget over, or nobody left to ask-->
    claiming   what had begun is decided, then measured --claim recorded-->
    ended      what others submitted meanwhile is run

Every step looks at the ledger afresh, so that a search goes on after a crash wherever it was. Does not place runs and
takes no decision of the promotion rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from scheduler.domain.lab import Board
from scheduler.domain.run import Run
from scheduler.domain.search import Search, SearchState
from scheduler.policy.budget import ideas_per_round, ideas_wanted, why_over
from scheduler.policy.explain import describe_claim
from scheduler.search.closing import (
    Outcome,
    cancel_unbegun,
    is_drained,
    may_start_while_closing,
    measure_claim,
)
from scheduler.search.spending import claim_estimate_s, spent
from scheduler.search.supply import Room, Supply
from scheduler.workspace import Workspace

TICK_S = 5.0


class SearchNight:
    """Implements scheduler.queue.companion.Companion. `state` follows the ledger's row of the search."""

    def __init__(
        self,
        space: Workspace,
        search: Search,
        supply: Supply,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._space, self._row, self._supply, self._clock, self._say = space, search, supply, clock, say
        self._ticked_at = clock()
        self._drained = False
        self._board: Board | None = None
        self._board_stamp: object = None

    @property
    def search(self) -> int:
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
        self._supply.take_answers()
        if resting or self.state is SearchState.ENDED:
            return
        if self.state is SearchState.RUNNING:
            self._supply_or_close(slots)
        if self.state is SearchState.CLAIMING:
            self._close_down()

    def placeable(self, queued: Sequence[Run]) -> Sequence[Run]:
        if self.state is not SearchState.CLAIMING:
            return queued
        return [run for run in queued if may_start_while_closing(run, drained=self._drained)]

    def wants_more(self) -> bool:
        return self.state is not SearchState.ENDED

    def is_busy(self) -> bool:
        return self._supply.open > 0

    def note(self) -> str:
        asks = self._supply.open
        if self.state is SearchState.CLAIMING:
            return "measuring the claim" if self._drained else "the budget is over, deciding what is undecided"
        return f"{asks} idea{'s' if asks != 1 else ''} being written" if asks else ""

    def close(self, reason: str) -> None:
        """The process leaves: what is asked for is lost, the search itself goes on at its next start."""
        try:
            self._count_time()
        finally:
            self._supply.close(reason)

    def _supply_or_close(self, slots: int) -> None:
        board, settings = self._read_board(), self._row.settings
        per_round = ideas_per_round(settings.budget, slots)
        now = spent(self._space, self._row, board, ideas=self._supply.ideas, open_asks=self._supply.open)
        over = why_over(now, settings.budget, per_round, claim_estimate_s(self._space, self._row, board, slots))
        queued = self._space.ledger.runs.queued(self._space.tag)
        if over is None and slots:
            wanted = ideas_wanted(settings.budget, per_round)
            left = [] if wanted is None else [wanted - self._supply.ideas]
            if settings.budget.runs is not None:
                left.append(settings.budget.runs - now.runs - now.running - len(queued))
            room = Room(settings.backlog or slots, slots, min(left) if left else None, per_round)
            begun = self._supply.ask(board, queued, room)
            if not begun and self._nothing_will_come(board, queued, now.running):
                over = f"nobody is left to ask: {self._supply.why_nobody()}"
        if over is not None:
            self._move(SearchState.CLAIMING, over)
            self._supply.close(over)

    def _nothing_will_come(self, board: Board, queued: Sequence[Run], running: int) -> bool:
        if self._supply.has_proposers or self._supply.open:
            return False
        return not queued and not running and not board.undecided

    def _close_down(self) -> None:
        cancelled = cancel_unbegun(self._space, self._read_board())
        if cancelled:
            self._say(f"cancelled {cancelled} idea{'s' if cancelled != 1 else ''} that had not begun")
        board = self._read_board()
        drained = is_drained(self._space, board)
        if drained and not self._drained:
            self._say("claim     first and final baseline are measured anew, alternately on the same slots")
        self._drained = drained
        outcome = measure_claim(self._space, self._row, board) if drained else None
        if outcome is not None:
            self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        self._count_time()
        with self._space.ledger.transaction():
            if outcome.claim is not None:
                self._space.ledger.claims.record(self._space.tag, self._row.number, outcome.claim)
            why = f"{self._row.reason}; {outcome.reason}"
            self._space.ledger.searches.move(self._row.number, SearchState.CLAIMING, SearchState.ENDED, why)
        self._row = replace(self._row, state=SearchState.ENDED, reason=why)
        if outcome.claim is not None and outcome.claim.first_scores:
            self._say(f"claim     {describe_claim(outcome.claim)}")
        else:
            self._say(f"claim     {outcome.reason}")
        self._say(f"search    {self._row.number} is over: {why}")

    def _move(self, to: SearchState, reason: str) -> None:
        self._space.ledger.searches.move(self._row.number, self._row.state, to, reason)
        self._row = replace(self._row, state=to, reason=reason)
        self._say(f"search    no more ideas: {reason}")

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

    def _read_board(self) -> Board:
        """Read again only when the ledger has changed: a step comes ten times a second."""
        stamp = self._space.ledger.stamp()
        if self._board is None or stamp != self._board_stamp:
            self._board, self._board_stamp = self._space.ledger.board(self._space.tag), stamp
        return self._board
