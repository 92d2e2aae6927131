"""Everything there is to say of a lab at once, for a reader who was asleep: what the HTML page is made of."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.claim import Claim
from scheduler.domain.event import Event
from scheduler.domain.proposal import ProposalState
from scheduler.domain.text import one_line
from scheduler.ledger import Ledger
from scheduler.views.explanation import describe_gates, explain_candidate
from scheduler.views.facts import LabFacts
from scheduler.views.ideas import IdeaRow, idea_rows
from scheduler.views.leaderboard import MERGED, Row, leaderboard
from scheduler.views.lineage import LineageStep, read_lineage
from scheduler.views.merging import MergeRow, merge_rows
from scheduler.views.plain import View, utc
from scheduler.views.search import SearchView, read_search
from scheduler.views.summary import Summary, summary
from scheduler.views.themes import Theme, read_themes
from scheduler.views.timeline import Timeline, read_timeline

EVENTS = 80  # of interest, the last ones


@dataclass(frozen=True, slots=True)
class CandidateLine(View):
    """A candidate with why it is what it is."""

    row: Row
    hypothesis: str
    reason: str
    note: str


@dataclass(frozen=True, slots=True)
class EventRow(View):
    at: str
    subject: str
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Night(View):
    """`as_of` is when the ledger was last changed: the same ledger gives the same page."""

    as_of: str
    branch: str
    device: str
    rule: str
    summary: Summary
    claim_runs: tuple[tuple[float, ...], tuple[float, ...]]
    lineage: tuple[LineageStep, ...]
    candidates: tuple[CandidateLine, ...]
    merges: tuple[MergeRow, ...]
    themes: tuple[Theme, ...]
    searches: tuple[SearchView, ...]
    known_ideas: tuple[IdeaRow, ...]
    failed_ideas: tuple[IdeaRow, ...]
    odd_ideas: tuple[IdeaRow, ...]
    timeline: Timeline
    events: tuple[EventRow, ...]

    @property
    def near_misses(self) -> tuple[CandidateLine, ...]:
        """The shelf without what is in the baseline by now, the most promising first."""
        shelf = [line for line in self.candidates if line.row.status == "shelved" and line.row.detail != MERGED]
        return tuple(sorted(shelf, key=lambda line: (-(line.row.p_better or 0.0), line.row.candidate)))

    @property
    def failures(self) -> tuple[CandidateLine, ...]:
        """Candidates that ran and gave no score."""
        return tuple(line for line in self.candidates if line.row.status == "failed")


def read_night(ledger: Ledger, facts: LabFacts) -> Night:
    events = ledger.events.list(facts.lab.tag)
    now = events[-1].at if events else facts.lab.created_at
    proposals = ledger.proposals.list(facts.lab.tag)
    claims = ledger.claims.list(facts.lab.tag)
    searches = (read_search(ledger, facts, one) for one in ledger.searches.list(facts.lab.tag))
    return Night(
        as_of=utc(now),
        branch=facts.lab.branch,
        device=facts.lab.device,
        rule=describe_gates(facts.lab.gates),
        summary=summary(ledger, facts),
        claim_runs=_scores(claims[-1]) if claims else ((), ()),
        lineage=read_lineage(ledger, facts),
        candidates=candidate_lines(facts),
        merges=merge_rows(facts),
        themes=read_themes(facts),
        searches=tuple(search for search in searches if search is not None),
        known_ideas=idea_rows(facts, proposals, ProposalState.KNOWN),
        failed_ideas=idea_rows(facts, proposals, ProposalState.FAILED),
        odd_ideas=tuple(idea for idea in idea_rows(facts, proposals, ProposalState.QUEUED) if idea.reason),
        timeline=read_timeline(ledger, facts, now),
        events=tuple(_event(event) for event in events if _is_of_interest(event))[-EVENTS:],
    )


def candidate_lines(facts: LabFacts) -> tuple[CandidateLine, ...]:
    """All of a lab as the leaderboard ranks them, each with its reason."""
    return tuple(_line(facts, row) for row in leaderboard(facts).candidates)


def _line(facts: LabFacts, row: Row) -> CandidateLine:
    """What an undecided candidate waits for is `explain`'s: it depends on who runs the queue."""
    candidate = facts.by_id[row.candidate]
    hypothesis = one_line(candidate.hypothesis)
    if candidate.state.undecided:
        return CandidateLine(row, hypothesis, "", "")
    about = explain_candidate(facts, candidate, None)
    return CandidateLine(row, hypothesis, about.answer, about.note)


def _scores(claim: Claim) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return claim.first_scores, claim.final_scores


def _is_of_interest(event: Event) -> bool:
    """What befell the lab, its searches and its attempts; not the daily life of candidates, runs and ideas."""
    lost = (event.from_state, event.to_state) == ("running", "queued")
    return event.subject[:1] not in ("c", "r", "p") or "." in event.subject or event.to_state == "baseline" or lost


def _event(event: Event) -> EventRow:
    moved = f"{event.from_state} → {event.to_state}" if event.from_state else event.to_state
    return EventRow(utc(event.at), one_line(event.subject), one_line(moved), one_line(event.reason))
