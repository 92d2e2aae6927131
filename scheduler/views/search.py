"""The lab's last search: its budget and what is spent of it, its proposers, its claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.domain.candidate import CandidateState
from scheduler.domain.claim import Claim
from scheduler.domain.proposal import Proposal, ProposalState, Trouble
from scheduler.domain.run import Finished, Run, RunKind
from scheduler.domain.search import Search
from scheduler.domain.text import one_line
from scheduler.ledger import Ledger
from scheduler.policy.budget import HOUR_S
from scheduler.policy.explain import describe_claim
from scheduler.views.facts import LabFacts
from scheduler.views.plain import View

LAST_TROUBLES = 5


@dataclass(frozen=True, slots=True)
class BudgetView(View):
    """None = no such limit. `ideas` is per round."""

    hours: float | None
    runs: int | None
    rounds: int | None
    ideas: int | None
    target_bpb: float | None


@dataclass(frozen=True, slots=True)
class SpentView(View):
    """`hours` in which the search was run; `runs` finished, claims left out; `slot_hours` their time on slots."""

    hours: float
    runs: int
    slot_hours: float
    ideas: int
    val_bpb: float | None


@dataclass(frozen=True, slots=True)
class ProposerTally(View):
    """What became of the asks to one proposer. `troubles` says how often which kind came, like {"crashed": 2}."""

    name: str
    weight: float
    asked: int
    open: int
    queued: int
    known: int
    failed: int
    promoted: int
    troubles: str
    last_reason: str


@dataclass(frozen=True, slots=True)
class ClaimView(View):
    """With no runs nothing was measured, and `sentence` says why. `low_bpb` and `high_bpb` bound the 95 % interval."""

    first: str
    final: str
    first_runs: int
    final_runs: int
    diff_bpb: float
    se_bpb: float
    low_bpb: float
    high_bpb: float
    excludes_zero: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class SearchView(View):
    """`unions` are candidates the scheduler merged during the search; `round` is that of the newest ask."""

    number: int
    state: str
    reason: str
    paused: bool
    started_at: float
    seed: int
    budget: BudgetView
    spent: SpentView
    round: int | None
    unions: int
    promotions: int
    proposers: tuple[ProposerTally, ...]
    claim: ClaimView | None


def read_search(ledger: Ledger, facts: LabFacts, search: Search | None = None) -> SearchView | None:
    """The view of `search` (None: the lab's last); None when there never was one."""
    searches = ledger.searches.list(facts.lab.tag)
    if search is None and not searches:
        return None
    number = search.number if search else searches[-1].number
    row = ledger.searches.get(number)
    mine = [one for one in ledger.proposals.list(facts.lab.tag) if one.search == number]
    until = next((other.started_at for other in searches if other.number > number), float("inf"))
    return search_view(facts, row, mine, ledger.claims.of_search(number), until)


def search_view(
    facts: LabFacts, search: Search, proposals: Sequence[Proposal], claim: Claim | None, until: float
) -> SearchView:
    """`until` is when the next search of the lab began, in seconds since the epoch."""
    begun = search.started_at
    new = [candidate for candidate in facts.candidates if begun <= candidate.submitted_at < until]
    promoted = [made for made in facts.promotions if begun <= made.promoted_at < until]
    budget, base = search.settings.budget, facts.board.baseline if facts.board else None
    runs = [run for run in facts.finished if run.kind is not RunKind.CLAIM and begun <= _over_at(run) < until]
    return SearchView(
        number=search.number,
        state=search.state.value,
        reason=one_line(search.reason),
        paused=facts.lab.paused_at is not None,
        started_at=begun,
        seed=search.settings.seed,
        budget=BudgetView(budget.hours, budget.runs, budget.rounds, budget.ideas, budget.target_bpb),
        spent=SpentView(
            hours=search.active_s / HOUR_S,
            runs=len(runs),
            slot_hours=sum(_length_s(run) for run in runs) / HOUR_S,
            ideas=sum(one.state is ProposalState.QUEUED for one in proposals),
            val_bpb=base.mean if base and base.n else None,
        ),
        round=max((one.round for one in proposals), default=None),
        unions=sum(candidate.origin.merged for candidate in new),
        promotions=len(promoted),
        proposers=tally_proposers(facts, search, proposals),
        claim=claim_view(facts, claim) if claim else None,
    )


def tally_proposers(facts: LabFacts, search: Search, proposals: Sequence[Proposal]) -> tuple[ProposerTally, ...]:
    """One for every proposer chosen now or asked earlier in the search, `union` left out: it is not asked."""
    weights = {choice.name: choice.weight for choice in search.settings.proposers if choice.name != "union"}
    names = [*weights, *dict.fromkeys(one.proposer for one in proposals if one.proposer not in weights)]
    return tuple(_tally(facts, name, weights.get(name, 0.0), proposals) for name in names)


def claim_view(facts: LabFacts, claim: Claim) -> ClaimView:
    measured = bool(claim.first_scores)
    return ClaimView(
        first=claim.first_id,
        final=claim.final_id,
        first_runs=len(claim.first_scores),
        final_runs=len(claim.final_scores),
        diff_bpb=claim.diff,
        se_bpb=claim.se,
        low_bpb=claim.low,
        high_bpb=claim.high,
        excludes_zero=measured and claim.excludes_zero,
        sentence=describe_claim(claim) if measured else "no improvement found: nothing to claim",
    )


def _tally(facts: LabFacts, name: str, weight: float, proposals: Sequence[Proposal]) -> ProposerTally:
    mine = [one for one in proposals if one.proposer == name]
    states = Counter(one.state for one in mine)
    failed = [one for one in mine if one.state is ProposalState.FAILED and one.trouble != Trouble.STOPPED]
    kinds = Counter(one.trouble for one in failed)
    return ProposerTally(
        name=one_line(name),
        weight=weight,
        asked=len(mine),
        open=states[ProposalState.ASKED],
        queued=states[ProposalState.QUEUED],
        known=states[ProposalState.KNOWN],
        failed=len(failed),
        promoted=sum(_was_promoted(facts, one) for one in mine),
        troubles=", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(LAST_TROUBLES)),
        last_reason=one_line(failed[-1].reason) if failed else "",
    )


def _was_promoted(facts: LabFacts, proposal: Proposal) -> bool:
    candidate = facts.by_id.get(proposal.candidate_id or "") if proposal.state is ProposalState.QUEUED else None
    return candidate is not None and candidate.state in (CandidateState.BASELINE, CandidateState.PROMOTED)


def _over_at(run: Run) -> float:
    return run.state.finished_at if isinstance(run.state, Finished) else float("-inf")


def _length_s(run: Run) -> float:
    return max(0.0, run.state.finished_at - run.state.started_at) if isinstance(run.state, Finished) else 0.0
