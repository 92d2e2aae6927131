"""A search: its budget and what is spent of it, its proposers and open asks, its claim, and what was tried by theme."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.decision import Claim, Effect
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Lab
from scheduler.domain.run import RunKind
from scheduler.domain.search import Proposal, ProposalFailure, ProposalState, Search, SearchBudget
from scheduler.domain.text import one_line
from scheduler.policy.budget import HOUR_S
from scheduler.policy.explain import SAME_SPEED, describe_claim, theme_of, why_dead, why_failed
from scheduler.views import View, jsonable
from scheduler.views.facts import LabFacts
from scheduler.views.runs import Medians, last_failure, medians_of

LAST_TROUBLES = 5

_DEAD = (CandidateState.DISCARDED, CandidateState.FAILED)
_WON = (CandidateState.BASELINE, CandidateState.PROMOTED)


@dataclass(frozen=True, slots=True)
class SpentView(View):
    """`hours` in which the search was run; `runs` finished of candidates that came since it began.

    `slot_hours` is the time of all its runs on slots, claims left out.
    """

    hours: float
    runs: int
    slot_hours: float
    ideas: int
    val_bpb: float | None


@dataclass(frozen=True, slots=True)
class ProposerTally(View):
    """What became of the asks to one proposer. `troubles` says how often which kind came: "2 × crashed"."""

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
class SearchView(View):
    """`unions` are candidates the scheduler merged during the search; `round` is that of the newest ask."""

    number: int
    state: str
    reason: str
    paused: bool
    started_at: float
    seed: int
    budget: SearchBudget
    spent: SpentView
    round: int | None
    unions: int
    promotions: int
    proposers: tuple[ProposerTally, ...]
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class OpenIdea(View):
    """An ask that is being worked on."""

    id: str
    proposer: str
    base: str
    age_s: float


class DeadEnd:
    """A candidate that was discarded or failed. Worked out when it is looked at: a lab may have thousands."""

    def __init__(self, facts: LabFacts, candidate: Candidate) -> None:
        self._facts, self._candidate = facts, candidate
        self.candidate = candidate.id

    @property
    def title(self) -> str:
        return one_line(self._candidate.title or self._candidate.name)

    @cached_property
    def effect(self) -> Effect | None:
        """None without a score."""
        return self._facts.effect(self._candidate)

    @property
    def effect_bpb(self) -> float | None:
        return self.effect.diff if self.effect else None

    @property
    def effect_se_bpb(self) -> float | None:
        return self.effect.se if self.effect else None

    @cached_property
    def medians(self) -> Medians:
        return medians_of(self._facts, self._candidate)

    @cached_property
    def why(self) -> str:
        if self.effect is None:
            failure = last_failure(self._facts.runs_of[self.candidate])
            return one_line(why_failed(failure.status, failure.reason)) if failure else "no score"
        base = medians_of(self._facts, self._facts.by_id[self._candidate.base_id or ""])
        speeds = (self.medians.tokens_per_s, base.tokens_per_s)
        return why_dead(self.effect, *speeds, _same_speed(self._facts.lab))


@dataclass(frozen=True, slots=True)
class Theme:
    """What was tried under one word, and what came of it; its dead ends, the latest first.

    `promoted` counts what a union or port carried into the baseline as well.
    """

    theme: str
    tried: int
    promoted: int
    shelved: int
    dead_ends: tuple[DeadEnd, ...]


@jsonable.register
def _(claim: Claim) -> dict[str, object]:
    """`low_bpb` and `high_bpb` bound the 95 % interval."""
    bounds = {"diff_bpb": claim.diff, "se_bpb": claim.se, "low_bpb": claim.low, "high_bpb": claim.high}
    return {
        "first": claim.first_id,
        "final": claim.final_id,
        "first_runs": len(claim.first_scores),
        "final_runs": len(claim.final_scores),
        **{name: jsonable(value) for name, value in bounds.items()},
        "excludes_zero": bool(claim.first_scores) and claim.excludes_zero,
        "sentence": claim_sentence(claim),
    }


def claim_sentence(claim: Claim) -> str:
    """Without runs nothing was measured, and it says why."""
    return describe_claim(claim) if claim.first_scores else "no improvement found: nothing to claim"


def read_search(facts: LabFacts, search: Search | None = None) -> SearchView | None:
    """The view of `search` (None: the lab's last); None when there never was one."""
    searches = facts.ledger.searches.list(facts.lab.tag)
    if search is None and not searches:
        return None
    search = search or searches[-1]
    begun = search.started_at
    until = next((other.started_at for other in searches if other.number > search.number), float("inf"))
    proposals = [one for one in facts.proposals if one.search == search.number]
    base = facts.board.baseline if facts.board else None
    ended = [
        (row.candidate, max(0.0, row.ended_at - row.started_at))
        for row in facts.attempts
        if row.has_result and RunKind(row.kind).decides and row.ended_at is not None and begun <= row.ended_at < until
    ]
    ideas = {int(c.id[1:]) for c in facts.candidates if c.base_id is not None and begun <= c.submitted_at}
    merged = (facts.by_id[merge.candidate_id] for merge in facts.merges if merge.candidate_id)
    return SearchView(
        number=search.number,
        state=search.state.value,
        reason=one_line(search.reason),
        paused=facts.lab.paused_at is not None,
        started_at=begun,
        seed=search.settings.seed,
        budget=search.settings.budget,
        spent=SpentView(
            hours=search.active_s / HOUR_S,
            runs=sum(candidate in ideas for candidate, _ in ended),
            slot_hours=sum(length_s for _, length_s in ended) / HOUR_S,
            ideas=sum(one.state is ProposalState.QUEUED for one in proposals),
            val_bpb=base.mean if base and base.n else None,
        ),
        round=max((one.round for one in proposals), default=None),
        unions=sum(begun <= candidate.submitted_at < until for candidate in merged),
        promotions=sum(begun <= made.promoted_at < until for made in facts.promotions),
        proposers=_tally_proposers(facts, search, proposals),
        claim=facts.ledger.claims.of_search(search.number),
    )


def open_ideas(proposals: Iterable[Proposal], now: float) -> tuple[OpenIdea, ...]:
    """`now` in seconds since the epoch."""
    return tuple(
        OpenIdea(one.id, one_line(one.proposer), one.base_id, max(0.0, now - one.asked_at))
        for one in proposals
        if one.state is ProposalState.ASKED
    )


def read_themes(facts: LabFacts) -> tuple[Theme, ...]:
    """Of everything but first baselines and merges, the theme most tried first."""
    found: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in facts.candidates:
        if candidate.base_id is not None and not candidate.origin.merged:
            found[one_line(theme_of(candidate.theme, candidate.title))].append(candidate)
    near_misses = {candidate.id for candidate in facts.near_misses}
    themes = [
        Theme(
            theme=name,
            tried=len(tried),
            promoted=sum(one.state in _WON or one.id in facts.in_force for one in tried),
            shelved=sum(one.id in near_misses for one in tried),
            dead_ends=tuple(DeadEnd(facts, one) for one in reversed(tried) if one.state in _DEAD),
        )
        for name, tried in found.items()
    ]
    return tuple(sorted(themes, key=lambda theme: (-theme.tried, theme.theme)))


@lru_cache(maxsize=4)
def _same_speed(lab: Lab) -> float:
    """By the contract's clock; the wall's where this version cannot read the contract."""
    from scheduler.lab import contract_of

    try:
        return SAME_SPEED[contract_of(lab).budget.clock]
    except LabProblem:
        return SAME_SPEED["wall"]


def _tally_proposers(facts: LabFacts, search: Search, proposals: Sequence[Proposal]) -> tuple[ProposerTally, ...]:
    """One for every proposer chosen now or asked earlier in the search, `union` left out: it is not asked."""
    weights = {choice.name: choice.weight for choice in search.settings.proposers if choice.name != "union"}
    asked: dict[str, list[Proposal]] = {name: [] for name in weights}
    for one in proposals:
        asked.setdefault(one.proposer, []).append(one)
    return tuple(_tally(facts, name, weights.get(name, 0.0), mine) for name, mine in asked.items())


def _tally(facts: LabFacts, name: str, weight: float, asks: Sequence[Proposal]) -> ProposerTally:
    states = Counter(one.state for one in asks)
    failed = [one for one in asks if one.state is ProposalState.FAILED and one.trouble != ProposalFailure.STOPPED]
    kinds = Counter(one.trouble for one in failed)
    made = (one.candidate_id for one in asks if one.state is ProposalState.QUEUED)
    return ProposerTally(
        name=one_line(name),
        weight=weight,
        asked=len(asks),
        open=states[ProposalState.ASKED],
        queued=states[ProposalState.QUEUED],
        known=states[ProposalState.KNOWN],
        failed=len(failed),
        promoted=sum(facts.standings[ref].state in _WON for ref in made if ref in facts.standings),
        troubles=", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(LAST_TROUBLES)),
        last_reason=one_line(failed[-1].reason) if failed else "",
    )
