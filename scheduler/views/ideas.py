"""What proposers were asked and what came of it: the ideas being made now, the repeats, and every failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.domain.proposal import Proposal, ProposalState
from scheduler.domain.text import clean, one_line
from scheduler.views.facts import LabFacts
from scheduler.views.plain import View, utc

LOG_LINES = 12  # of what a proposer printed, the last ones
LOG_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class IdeaRow(View):
    """One ask. `trouble` says what kind of failure it was ("" for none: then `reason` is a remark, or "").

    `took_s` is None while it is open; `candidate` is the new candidate, or the earlier one with the same program;
    `log` the end of what was printed.
    """

    id: str
    search: int
    proposer: str
    round: int
    state: str
    candidate: str | None
    name: str
    title: str
    trouble: str
    reason: str
    asked_at: str
    took_s: float | None
    log: str


@dataclass(frozen=True, slots=True)
class OpenIdea(View):
    """An ask that is being worked on."""

    id: str
    proposer: str
    base: str
    age_s: float


def idea_rows(facts: LabFacts, proposals: Sequence[Proposal], *states: ProposalState) -> tuple[IdeaRow, ...]:
    """The asks in these states, in the order of asking."""
    return tuple(_row(facts, one) for one in proposals if one.state in states)


def open_ideas(proposals: Sequence[Proposal], now: float) -> tuple[OpenIdea, ...]:
    """`now` in seconds since the epoch."""
    return tuple(
        OpenIdea(one.id, one_line(one.proposer), one.base_id, max(0.0, now - one.asked_at))
        for one in proposals
        if one.state is ProposalState.ASKED
    )


def _row(facts: LabFacts, proposal: Proposal) -> IdeaRow:
    answered = proposal.answered_at
    return IdeaRow(
        id=proposal.id,
        search=proposal.search,
        proposer=one_line(proposal.proposer),
        round=proposal.round,
        state=proposal.state.value,
        candidate=proposal.candidate_id,
        name=one_line(facts.name(proposal.candidate_id)) if proposal.candidate_id else "",
        title=one_line(proposal.title),
        trouble=one_line(proposal.trouble),
        reason=one_line(proposal.reason),
        asked_at=utc(proposal.asked_at),
        took_s=None if answered is None else max(0.0, answered - proposal.asked_at),
        log=tail(proposal.log),
    )


def tail(log: str) -> str:
    """The last lines of a log, cleaned and of bearable length."""
    lines = clean(log[-4 * LOG_CHARACTERS :]).strip().splitlines()
    return "\n".join(lines[-LOG_LINES:])[-LOG_CHARACTERS:]
