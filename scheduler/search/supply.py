"""Keeps the queue supplied: asks go out while runs train, answers come in and are queued.

Queued ideas are kept at the backlog, and asks under way beyond it by at most one for every slot: deeper, ideas would
be made on a baseline that is old by the time they run. Which proposer is asked is scheduler.policy.shares'; what an
answer becomes is entering.py's; unions of near-misses come before any proposer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from scheduler.domain.errors import ArschedError, CandidateRejected, GitProblem, LedgerProblem
from scheduler.domain.lab import Board
from scheduler.domain.proposal import Answer, Ask, NoIdea, Proposal, ProposalState, Proposer, Trouble
from scheduler.domain.run import Run, RunKind
from scheduler.domain.search import Search
from scheduler.domain.text import one_line
from scheduler.policy.shares import next_proposer
from scheduler.policy.union import near_miss_union
from scheduler.queue.deciding import carry_out, look
from scheduler.queue.progress import tidy
from scheduler.search.desk import Desk
from scheduler.search.entering import Entered, enter
from scheduler.search.trials import Trials
from scheduler.workspace import Workspace

SEEDS_PER_SEARCH = 100_003  # a search's seed times this, plus the ask's number: no two asks share one
REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Room:
    """How much may be asked for now. `ideas` is how many more may be begun in all (None: no limit)."""

    backlog: int
    slots: int
    ideas: int | None
    ideas_per_round: int


class Supply:
    """Asks and takes answers; call `close` when it is over, whatever happened."""

    def __init__(
        self,
        space: Workspace,
        search: Search,
        proposers: Mapping[str, Proposer],
        *,
        unions: bool,
        brief: Callable[[int], str],
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._space, self._search, self._brief, self._clock, self._say = space, search, brief, clock, say
        self._unions = unions
        self._trials = Trials(space)
        self._no_union_on: Board | None = None
        earlier = [one for one in space.ledger.proposals.list(space.tag) if one.search == search.number]
        self._asked = len(earlier)
        weights = {choice.name: choice.weight for choice in search.settings.proposers}
        self._desks = {
            name: Desk(name, one, weights.get(name, 1.0), _ideas(earlier, name)) for name, one in proposers.items()
        }
        self._ideas_of_others = sum(one.state is ProposalState.QUEUED for one in earlier) - sum(
            desk.ideas for desk in self._desks.values()
        )
        self._closed = False

    @property
    def open(self) -> int:
        """Asks under way."""
        return sum(len(desk.open) for desk in self._desks.values())

    @property
    def ideas(self) -> int:
        """New candidates of proposers in this search, those of earlier processes included."""
        return self._ideas_of_others + sum(desk.ideas for desk in self._desks.values())

    @property
    def has_proposers(self) -> bool:
        """Whether anybody may still be asked, now or after a rest."""
        return any(not desk.given_up for desk in self._desks.values())

    def why_nobody(self) -> str:
        """Why there is nobody left to ask."""
        reasons = [f"{one_line(desk.name)}: {desk.given_up}" for desk in self._desks.values()]
        return "; ".join(reasons) or "nothing on the shelf can be merged"

    def take_answers(self) -> int:
        """Enter every answer there is. Returns how many. Raises GitProblem, LedgerProblem, LabProblem."""
        taken = 0
        for desk in self._desks.values():
            for answer in self._polled(desk):
                asked = desk.open.pop(answer.ask_id, None)
                if asked is not None:
                    self._take(desk, *asked, answer)
                    taken += 1
        return taken

    def ask(self, board: Board, queued: Sequence[Run], room: Room) -> int:
        """Fill what room there is. Returns how many unions and asks were begun."""
        begun, waiting = 0, sum(_is_idea(run) for run in queued)
        while self._may_begin(waiting, room):
            if self._merge_near_misses(board, room.slots):
                return begun + 1  # the board is another one now
            if not self._ask_one(board, room):
                break
            begun += 1
        return begun

    def close(self, reason: str) -> None:
        """End every ask: what is under way is recorded as stopped. Proposers are dead when it returns."""
        if self._closed:
            return
        self._closed = True
        for desk in self._desks.values():
            try:
                desk.proposer.close()
            except Exception as problem:
                self._say(f"note: {desk.name} did not close: {one_line(_said(problem))}")
        for desk in self._desks.values():
            for ask_id in desk.open:
                self._space.ledger.proposals.failed(ask_id, Trouble.STOPPED, reason)
            desk.open.clear()

    def _may_begin(self, waiting: int, room: Room) -> bool:
        if self._closed or waiting >= room.backlog or waiting + self.open >= room.backlog + room.slots:
            return False
        return room.ideas is None or self.open < room.ideas

    def _merge_near_misses(self, board: Board, slots: int) -> bool:
        if not self._unions or board is self._no_union_on:
            return False
        self._no_union_on = board  # whatever comes of it, the same board is not asked twice
        if near_miss_union(board, slots) is None:
            return False
        moment = look(self._space)
        decision = near_miss_union(moment.board, slots)
        if decision is not None:
            with suppress(LedgerProblem):  # somebody else moved the board: the next round sees the new one
                carry_out(self._space, moment, decision, self._say)
        return True

    def _ask_one(self, board: Board, room: Room) -> bool:
        now = self._clock()
        able = {name for name, desk in self._desks.items() if desk.is_able(now)}
        weights = {name: desk.weight for name, desk in self._desks.items() if not desk.given_up}
        name = next_proposer(weights, {name: self._desks[name].claimed for name in weights}, able)
        if name is None:
            return False
        self._begin(self._desks[name], board, room)
        return True

    def _begin(self, desk: Desk, board: Board, room: Room) -> None:
        base, ledger, now = board.baseline_id, self._space.ledger, self._clock()
        number = (self.ideas + self.open) // room.ideas_per_round + 1
        seed = self._search.settings.seed * SEEDS_PER_SEARCH + self._asked
        ask_id = ledger.proposals.ask(
            self._space.tag, self._search.number, desk.name, base_id=base, round=number, seed=seed
        )
        brief = self._brief(self._asked)
        self._asked += 1
        ask = Ask(
            id=ask_id,
            base_id=base,
            base_commit=self._space.baseline_commit(),
            train_py=ledger.candidates.train_py(base),
            brief=brief,
            trials=self._trials.of(board),
            round=number,
            seed=seed,
        )
        try:
            desk.begin(ask, now)
        except Exception as problem:  # a plug-in is somebody else's code: it fails alone
            self._take(desk, ask, now, NoIdea(ask_id, Trouble.CRASHED, _said(problem)))

    def _polled(self, desk: Desk) -> tuple[Answer, ...]:
        try:
            return desk.proposer.poll()
        except Exception as problem:
            return tuple(NoIdea(ask_id, Trouble.CRASHED, _said(problem)) for ask_id in desk.open)

    def _take(self, desk: Desk, ask: Ask, asked_at: float, answer: Answer) -> None:
        if isinstance(answer, NoIdea):
            self._take_none(desk, ask, asked_at, answer)
            return
        try:
            entered = enter(self._space, ask, answer, desk.name)
        except (CandidateRejected, GitProblem) as problem:
            self._take_none(desk, ask, asked_at, NoIdea(ask.id, Trouble.REFUSED, problem.message, answer.log))
            return
        self._tell_entered(desk, ask, asked_at, entered)
        if answer.remark:
            self._say(f"note: {ask.id} {desk.name}: {tidy(answer.remark)}")

    def _tell_entered(self, desk: Desk, ask: Ask, asked_at: float, entered: Entered) -> None:
        who = f"{ask.id} {desk.name}"
        if entered.candidate is None:
            self._say(f"no idea   {who}  {Trouble.REFUSED}: {tidy(entered.reason)}")
            self._say_if(desk.was_trouble(asked_at, self._clock(), entered.reason))
        elif entered.known:
            same = entered.candidate
            self._say(f"known     {who}  {tidy(entered.title)}: the same program as {same.id} {tidy(same.name)}")
            self._say_if(desk.brought_known(asked_at, self._clock()))
        else:
            desk.brought_idea()
            self._say(f"idea      {who}  {tidy(entered.title)}  ({entered.candidate.id}, round {ask.round})")

    def _take_none(self, desk: Desk, ask: Ask, asked_at: float, answer: NoIdea) -> None:
        reason = one_line(answer.reason)[:REASON_CHARACTERS]
        self._space.ledger.proposals.failed(ask.id, answer.trouble, reason, log=answer.log)
        self._say(f"no idea   {ask.id} {desk.name}  {answer.trouble}: {reason}")
        if answer.trouble is Trouble.EXHAUSTED:
            self._say_if("" if desk.given_up else desk.give_up(reason or "it has no more ideas"))
        else:
            self._say_if(desk.was_trouble(asked_at, self._clock(), reason))

    def _say_if(self, words: str) -> None:
        if words:
            self._say(words)


def _said(problem: Exception) -> str:
    return problem.message if isinstance(problem, ArschedError) else f"{type(problem).__name__}: {problem}"


def _ideas(earlier: Sequence[Proposal], name: str) -> int:
    return sum(one.proposer == name and one.state is ProposalState.QUEUED for one in earlier)


def _is_idea(run: Run) -> bool:
    """A queued run that keeps a slot busy and needs no other result first."""
    return run.kind in (RunKind.NEW, RunKind.UNION)
