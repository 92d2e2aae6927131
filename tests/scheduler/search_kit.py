"""A lab with a search: proposers that answer on the virtual clock, whatever the test wants them to say."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from scheduler.domain.decision import Claim
from scheduler.domain.errors import ProposerProblem
from scheduler.domain.run import Finished, Run, RunKind
from scheduler.domain.search import (
    Answer,
    Ask,
    NoIdea,
    Proposal,
    ProposalFailure,
    Proposed,
    Proposer,
    ProposerChoice,
    SearchBudget,
    SearchSettings,
)
from scheduler.search.session import SearchEnding, run_search
from tests.scheduler.lab_kit import PlayedLab, as_the_source_says


class FakeProposer:
    """Answers `latency(ask)` seconds after it was asked with what `answer(ask)` says."""

    def __init__(
        self,
        clock: Callable[[], float],
        answer: Callable[[Ask], Answer],
        *,
        name: str = "fake",
        latency: Callable[[Ask], float] = lambda ask: 0.0,
        capacity: int = 4,
        ideas_per_ask: int = 1,
    ) -> None:
        self.name, self.capacity, self.closed, self.ideas_per_ask = name, capacity, False, ideas_per_ask
        self.asks: list[Ask] = []
        self.asked_at: list[float] = []
        self.deepest = 0
        self._clock, self._answer, self._latency = clock, answer, latency
        self._open: list[tuple[float, Ask]] = []

    def ask(self, ask: Ask) -> None:
        assert not self.closed and len(self._open) < self.capacity
        self.asks.append(ask)
        self.asked_at.append(self._clock())
        self._open.append((self._clock() + self._latency(ask), ask))
        self.deepest = max(self.deepest, len(self._open))

    def poll(self) -> tuple[Answer, ...]:
        due = [(at, ask) for at, ask in self._open if at <= self._clock()]
        self._open = [pair for pair in self._open if pair not in due]
        return tuple(self._answer(ask) for _, ask in due)

    def close(self) -> None:
        self.closed = True


class BrokenProposer(FakeProposer):
    """Cannot even begin."""

    def ask(self, ask: Ask) -> None:
        super().ask(ask)
        self._open.clear()
        raise ProposerProblem("the command is not there")


def idea(score: float, *, title: str = "") -> Callable[[Ask], Answer]:
    """Every ask brings another program of about this score."""
    return lambda ask: Proposed(ask.id, f"SCORE = {score}\nIDEA = {ask.seed}\n".encode(), title or f"idea {ask.seed}")


def scores(*values: float) -> Callable[[Ask], Answer]:
    """The first ask brings the first score, and so on; then no more ideas."""
    left = list(values)

    def answer(ask: Ask) -> Answer:
        if not left:
            return NoIdea(ask.id, ProposalFailure.EXHAUSTED, "that was all")
        return Proposed(ask.id, f"SCORE = {left.pop(0)}\nIDEA = {ask.seed}\n".encode(), f"idea {ask.seed}")

    return answer


def trouble(kind: ProposalFailure = ProposalFailure.CRASHED, reason: str = "exit code 3") -> Callable[[Ask], Answer]:
    return lambda ask: NoIdea(ask.id, kind, reason)


def settings(
    *names: str, claim_runs: int = 2, backlog: int | None = None, seed: int = 0, **budget: object
) -> SearchSettings:
    """Proposers like "fake" or "fake:3", and a budget: runs=20."""
    choices = []
    for text in names or ("fake",):
        name, _, weight = text.partition(":")
        choices.append(ProposerChoice(name, float(weight or 1)))
    return SearchSettings(SearchBudget(**budget), tuple(choices), backlog, claim_runs, seed)  # type: ignore[arg-type]


def press(lab: PlayedLab, at: dict[float, int]) -> None:
    """Send signals to ourselves when the clock gets there."""
    due = dict(at)

    def each_round() -> None:
        for when in [when for when in due if lab.clock() >= when]:
            signal.raise_signal(due.pop(when))

    lab.each_round = each_round


class SearchLab(PlayedLab):
    """A lab in memory in which searches are run."""

    def __init__(self, folder: Path, slots: int = 2, outcome: object = as_the_source_says) -> None:
        super().__init__(folder, slots, outcome)

    def search(self, wanted: SearchSettings | None, *proposers: Proposer) -> SearchEnding:
        return run_search(self.space, self.screen, self.means, wanted, {one.name: one for one in proposers})

    def fake(self, answer: Callable[[Ask], Answer], **more: object) -> FakeProposer:
        return FakeProposer(self.clock, answer, **more)  # type: ignore[arg-type]

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        return self.space.ledger.proposals.list("t")

    @property
    def claims(self) -> tuple[Claim, ...]:
        return self.space.ledger.claims.list("t")

    def runs(self, *kinds: RunKind) -> list[Run]:
        return [run for run in self.space.ledger.runs.list("t") if not kinds or run.kind in kinds]

    def finished(self, *kinds: RunKind) -> list[Finished]:
        """In the order in which they were begun."""
        states = [run.state for run in self.runs(*kinds) if isinstance(run.state, Finished)]
        return sorted(states, key=lambda state: state.started_at)
