"""Keeps the queue supplied: asks go out to proposers while runs train, answers come in and become candidates.

Queued ideas are kept at the backlog, and asks under way beyond it by at most one for every slot: deeper, ideas would
be made on a baseline that is old by the time they run. An answer's commit is made first, then candidate, run and answer
are written as one. Everything a proposer writes is data: cleaned and cut here. Not covered: shares (policy.budget).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache

from scheduler.domain.candidate import Candidate, CandidateStats, NewCandidate, Origin, Source
from scheduler.domain.errors import ArschedError, CandidateRejected, GitProblem, LedgerProblem, ProposerProblem
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Run, RunKind
from scheduler.domain.search import (
    Answer,
    Ask,
    NoIdea,
    ProposalFailure,
    ProposalState,
    Proposed,
    Proposer,
    Search,
    SeveralIdeas,
    Trial,
)
from scheduler.domain.text import clean, one_line, shorten
from scheduler.lab import Workspace
from scheduler.policy.budget import KNOWN_PATIENCE, PATIENCE, PROVEN_PATIENCE, next_proposer, rest_s
from scheduler.policy.decide import is_holding
from scheduler.policy.merging import near_miss_union
from scheduler.policy.source import TITLE_CHARACTERS, free_name, read_source, slug
from scheduler.queue.decide import carry_out, look
from scheduler.queue.runtime import SUBMIT_LOCK_S, exclusive

SEEDS_PER_SEARCH = 100_003  # a search's seed times this, plus the ask's number: no two asks share one
REASON_CHARACTERS = 300
IDEA_KINDS = (RunKind.NEW, RunKind.UNION)  # queued runs that keep a slot busy and need no other result first


@dataclass(frozen=True, slots=True)
class Room:
    """How much may be asked for now. `ideas` is how many more may be begun in all (None: no limit)."""

    backlog: int
    slots: int
    ideas: int | None
    ideas_per_round: int


@dataclass
class ProposerState:
    """What one proposer was asked for, its failures in a row, and when it may be asked again.

    One that keeps failing rests for longer and longer and is given up in the end; the others go on. One that has
    brought ideas is most likely cut off for a while (an outage, a usage limit), so it is given up hours later. Asks
    that fail together count once. `ideas` are its new candidates, earlier processes of the search included.
    """

    name: str  # as the search chose it
    proposer: Proposer
    weight: float
    ideas: int
    report: Callable[[str], None]
    open: dict[str, tuple[Ask, float]] = field(default_factory=dict)  # ask and when it was asked
    given_up: str = ""  # why it is not asked any more
    _failures: int = 0
    _known: int = 0
    _rests_until: float = float("-inf")
    _failed_at: float = float("-inf")

    @property
    def per_ask(self) -> int:
        """How many ideas an ask may want."""
        return getattr(self.proposer, "ideas_per_ask", 1)

    @property
    def wanted(self) -> int:
        """Ideas that are being written."""
        return sum(ask.ideas for ask, _ in self.open.values())

    def is_able(self, now: float) -> bool:
        return not self.given_up and len(self.open) < self.proposer.capacity and now >= self._rests_until

    def record_ideas(self, count: int) -> None:
        self.ideas += count
        self._failures = self._known = 0
        self._rests_until = float("-inf")

    def record_known(self, asked_at: float, now: float) -> None:
        """The third repeat in a row is a failure."""
        self._known += 1
        if self._known >= KNOWN_PATIENCE:
            self.record_failure(asked_at, now, "only repeats")

    def record_failure(self, asked_at: float, now: float, reason: str) -> None:
        if asked_at < self._failed_at or self.given_up:
            return
        self._failures, self._failed_at = self._failures + 1, now
        # Repeats are no outage: a proposer that brings only those has run out of ideas.
        patience = PROVEN_PATIENCE if self.ideas and self._known < KNOWN_PATIENCE else PATIENCE
        if self._failures >= patience:
            self.give_up(f"{self._failures} troubles in a row, the last: {reason}")
            return
        self._rests_until = now + rest_s(self._failures)
        if self._failures == 1:
            self.report(f"note: {self.name} rests for {rest_s(1):.0f} s, longer each time")

    def give_up(self, reason: str) -> None:
        if not self.given_up:
            self.given_up = reason
            self.report(f"note: {self.name} is not asked any more in this search: {reason}")


class ProposalPipeline:
    """Sends asks and takes answers; unions of near-misses come before any proposer. Call `close` at the end.

    `brief` writes the page for the ask of a number.
    """

    def __init__(
        self,
        space: Workspace,
        search: Search,
        proposers: Mapping[str, Proposer],
        *,
        unions: bool,
        brief: Callable[[int], str],
        clock: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        self._space, self._search, self._brief, self._clock, self._report = space, search, brief, clock, report
        self._unions = unions
        self._no_union_on: LabSnapshot | None = None
        self._written = cache(self._read_written)
        earlier = [one for one in space.ledger.proposals.list(space.tag) if one.search == search.number]
        self._asked = len(earlier)
        brought = [one.proposer for one in earlier if one.state is ProposalState.QUEUED]
        weights = {choice.name: choice.weight for choice in search.settings.proposers}
        self._states = {
            name: ProposerState(name, one, weights.get(name, 1.0), brought.count(name), report)
            for name, one in proposers.items()
        }
        self._ideas_of_others = sum(name not in proposers for name in brought)
        self._closed = False

    @property
    def open(self) -> int:
        """Ideas being written: what the asks under way want."""
        return sum(state.wanted for state in self._states.values())

    @property
    def ideas(self) -> int:
        """New candidates of proposers in this search, those of earlier processes included."""
        return self._ideas_of_others + sum(state.ideas for state in self._states.values())

    @property
    def has_proposers(self) -> bool:
        """Whether any may still be asked, now or after a rest."""
        return any(not state.given_up for state in self._states.values())

    def why_none_left(self) -> str:
        """Why no proposer is left to ask."""
        reasons = [f"{one_line(state.name)}: {state.given_up}" for state in self._states.values()]
        return "; ".join(reasons) or "nothing on the shelf can be merged"

    def take_answers(self) -> None:
        """Admit every answer there is.

        Raises GitProblem, LedgerProblem, LabProblem; ProposerProblem when a proposer's command cannot be run at all.
        """
        for state in self._states.values():
            try:
                answers = state.proposer.poll()
            except Exception as problem:  # a plug-in is foreign code: it fails alone
                answers = tuple(NoIdea(ask_id, ProposalFailure.CRASHED, _describe(problem)) for ask_id in state.open)
            for answer in answers:
                asked = state.open.pop(answer.ask_id, None)
                if asked is not None:
                    self._take(state, *asked, answer)

    def ask(self, board: LabSnapshot, queued: Sequence[Run], room: Room) -> int:
        """Fill what room there is. Returns how many unions and asks were begun."""
        begun, waiting = 0, sum(run.kind in IDEA_KINDS for run in queued)
        while self._may_begin(waiting, room):
            if self._merge_near_misses(board, room.slots):
                return begun + 1  # the board is another one now
            state = self._next_state()
            if state is None:
                break
            self._begin(state, board, room)
            begun += 1
        return begun

    def close(self, reason: str) -> None:
        """End every ask: what is under way is recorded as stopped. Proposers are dead when it returns."""
        if self._closed:
            return
        self._closed = True
        for state in self._states.values():
            try:
                state.proposer.close()
            except Exception as problem:
                self._report(f"note: {state.name} did not close: {one_line(_describe(problem))}")
        for state in self._states.values():
            for ask_id in state.open:
                self._space.ledger.proposals.failed(ask_id, ProposalFailure.STOPPED, reason)
            state.open.clear()

    def _may_begin(self, waiting: int, room: Room) -> bool:
        if self._closed or waiting >= room.backlog or waiting + self.open >= room.backlog + room.slots:
            return False
        return room.ideas is None or self.open < room.ideas

    def _merge_near_misses(self, board: LabSnapshot, slots: int) -> bool:
        if not self._unions or board is self._no_union_on:
            return False
        self._no_union_on = board  # whatever comes of it, the same board is not asked twice
        if near_miss_union(board, slots) is None:
            return False
        latest = look(self._space, self._clock())
        decision = near_miss_union(latest.board, slots)
        if decision is not None and not is_holding(latest.board):
            with suppress(LedgerProblem):  # another process moved the board: the next round sees the new one
                carry_out(self._space, latest, decision, self._report)
        return True

    def _next_state(self) -> ProposerState | None:
        now = self._clock()
        asked = {name: state for name, state in self._states.items() if not state.given_up}
        name = next_proposer(
            {name: state.weight for name, state in asked.items()},
            {name: state.ideas + state.wanted for name, state in asked.items()},
            {name for name, state in asked.items() if state.is_able(now)},
        )
        return None if name is None else self._states[name]

    def _begin(self, state: ProposerState, board: LabSnapshot, room: Room) -> None:
        base, ledger, now = board.baseline_id, self._space.ledger, self._clock()
        number = (self.ideas + self.open) // room.ideas_per_round + 1
        seed = self._search.settings.seed * SEEDS_PER_SEARCH + self._asked
        ask_id = ledger.proposals.ask(
            self._space.tag, self._search.number, state.name, base_id=base, round=number, seed=seed
        )
        brief = self._brief(self._asked)
        self._asked += 1
        left = state.per_ask if room.ideas is None else room.ideas - self.open
        ask = Ask(
            ask_id, base, self._space.baseline_commit(), ledger.candidates.train_py(base), brief,
            trials=tuple(self._trial(standing) for standing in board.standings),
            round=number, seed=seed, ideas=min(state.per_ask, left),
        )  # fmt: skip
        state.open[ask_id] = (ask, now)
        try:
            state.proposer.ask(ask)
        except Exception as problem:  # a plug-in is foreign code: it fails alone
            del state.open[ask_id]
            self._take(state, ask, now, NoIdea(ask_id, ProposalFailure.CRASHED, _describe(problem)))

    def _trial(self, standing: CandidateStats) -> Trial:
        train_py, proposer = self._written(standing.candidate_id)
        return Trial(
            candidate_id=standing.candidate_id,
            base_id=standing.base_id,
            train_py=train_py,
            val_bpb=standing.mean if standing.n else None,
            pending=bool(standing.pending_runs),
            proposer=proposer,
            failure=standing.failure,
        )

    def _read_written(self, candidate_id: str) -> tuple[bytes, str]:
        """A candidate's source and author, which never change."""
        candidates = self._space.ledger.candidates
        return candidates.train_py(candidate_id), candidates.get(candidate_id, self._space.tag).proposer

    def _take(self, state: ProposerState, ask: Ask, asked_at: float, answer: Answer) -> None:
        """Each idea of the answer is a proposal on record; what they say of the proposer is weighed together."""
        answers = answer.answers[: ask.ideas] if isinstance(answer, SeveralIdeas) else (answer,)
        answers = answers or (NoIdea(ask.id, ProposalFailure.MALFORMED, "an answer without any idea"),)
        asks = [ask, *(self._ask_for_another(state, ask) for _ in answers[1:])]
        taken = [self._take_one(state.name, *pair) for pair in zip(asks, answers, strict=True)]
        ideas, failures = taken.count(_IDEA), [one for one in taken if isinstance(one, NoIdea)]
        if ideas:
            state.record_ideas(ideas)
        elif _KNOWN in taken:
            state.record_known(asked_at, self._clock())
        elif failures[-1].trouble in _FOR_GOOD:
            self._give_up(state, failures[-1])
        else:
            state.record_failure(asked_at, self._clock(), failures[-1].reason)

    def _ask_for_another(self, state: ProposerState, ask: Ask) -> Ask:
        """The same ask once more on record, for one more of the ideas it brought."""
        again = self._space.ledger.proposals.ask(
            self._space.tag, self._search.number, state.name, base_id=ask.base_id, round=ask.round, seed=ask.seed
        )
        return replace(ask, id=again)

    def _give_up(self, state: ProposerState, failure: NoIdea) -> None:
        """Raises ProposerProblem where a command cannot be run and never could in this search."""
        state.give_up(failure.reason or "it has no more ideas")
        if failure.trouble is ProposalFailure.UNUSABLE and not state.ideas:
            hint = "give another command: arsched search goes on with this search, and takes new options"
            raise ProposerProblem(f"the command of {one_line(state.name)} cannot be run: {failure.reason}", hint)

    def _take_one(self, name: str, ask: Ask, answer: Proposed | NoIdea) -> NoIdea | str:
        """What became of it: _IDEA, _KNOWN, or the failure on record."""
        if isinstance(answer, NoIdea):
            return self._take_failure(name, ask, answer)
        title = clean_title(answer)
        try:
            candidate, is_new = admit(self._space, ask, answer, name)
        except (CandidateRejected, GitProblem) as problem:
            rejected = isinstance(problem, CandidateRejected)  # else git or its disk failed, not the idea
            kind = ProposalFailure.REFUSED if rejected else ProposalFailure.CRASHED
            return self._take_failure(name, ask, NoIdea(ask.id, kind, problem.message, answer.log), title)
        if is_new:
            self._report(f"idea      {ask.id} {name}  {candidate.title}  ({candidate.id}, round {ask.round})")
        else:
            what = f"{title or one_line(candidate.title)}: the same program as {candidate.id} {candidate.name}"
            self._report(f"known     {ask.id} {name}  {what}")
        if answer.warning:
            self._report(f"note: {ask.id} {name}: {shorten(one_line(answer.warning), REASON_CHARACTERS)}")
        return _IDEA if is_new else _KNOWN

    def _take_failure(self, name: str, ask: Ask, answer: NoIdea, title: str = "") -> NoIdea:
        reason = one_line(answer.reason)[:REASON_CHARACTERS]
        self._space.ledger.proposals.failed(ask.id, answer.trouble, reason, title=title, log=answer.log)
        self._report(f"no idea   {ask.id} {name}  {answer.trouble}: {reason}")
        return replace(answer, reason=reason)


_IDEA, _KNOWN = "a new candidate", "a known one"
_FOR_GOOD = (ProposalFailure.EXHAUSTED, ProposalFailure.UNUSABLE)


def _describe(problem: Exception) -> str:
    return problem.message if isinstance(problem, ArschedError) else f"{type(problem).__name__}: {problem}"


THEME_CHARACTERS, HYPOTHESIS_CHARACTERS, WARNING_CHARACTERS = 40, 1000, 300
SHOWN_PARENTS = 8


def admit(space: Workspace, ask: Ask, answer: Proposed, proposer: str) -> tuple[Candidate, bool]:
    """The candidate, and whether it is new; the ask is answered with it.

    Raises CandidateRejected for a bad source, with the ask left open; GitProblem, LedgerProblem, LabProblem.
    """
    source = read_source(answer.train_py)
    title, warning = clean_title(answer), one_line(answer.warning)[:WARNING_CHARACTERS]
    with exclusive(space.paths.submit_lock, SUBMIT_LOCK_S):
        known = space.ledger.candidates.find_fingerprint(space.tag, source.fingerprint)
        if known is not None:
            space.ledger.proposals.known(ask.id, known.id, title, log=answer.log, warning=warning)
            return known, False
        return _add_candidate(space, ask, answer, proposer, title, warning, source), True


def clean_title(answer: Proposed) -> str:
    return one_line(answer.title)[:TITLE_CHARACTERS]


def _add_candidate(
    space: Workspace, ask: Ask, answer: Proposed, proposer: str, title: str, warning: str, source: Source
) -> Candidate:
    name = free_name(slug(title), space.ledger.candidates.names(space.tag))
    title, theme = title or name, one_line(answer.theme)[:THEME_CHARACTERS]
    trailers = {
        "Candidate": name,
        "Proposal": ask.id,
        "Proposer": proposer,
        "Theme": theme,
        "Builds-on": " ".join(one_line(parent) for parent in answer.parents[:SHOWN_PARENTS])[:TITLE_CHARACTERS],
        "Hypothesis": one_line(answer.hypothesis)[:HYPOTHESIS_CHARACTERS],
    }
    trailers = {key: value for key, value in trailers.items() if value}
    commit = space.repo.commit_train_py(ask.base_commit, source.data, title, trailers)
    new = NewCandidate(
        source, name, commit, ask.base_id, title, author=proposer, origin=Origin.PROPOSED, proposer=proposer,
        hypothesis=clean(answer.hypothesis).strip()[:HYPOTHESIS_CHARACTERS], theme=theme, round=ask.round,
    )  # fmt: skip
    with space.ledger.transaction():
        candidate = space.ledger.candidates.add(space.tag, new)
        space.ledger.proposals.queued(ask.id, candidate.id, title, log=answer.log, warning=warning)
        space.repo.keep_ref(space.tag, candidate.id, commit)  # without it nothing is recorded
    return candidate
