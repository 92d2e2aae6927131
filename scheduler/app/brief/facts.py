"""What a brief is made of, read from the ledger once: plain values, no words yet."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.contract import Contract
from scheduler.adapters.ledger import Ledger
from scheduler.app.actions.contracts import contract_of
from scheduler.app.views.facts import LabFacts, read_facts
from scheduler.app.views.ideas import IdeaRow, idea_rows
from scheduler.app.views.merging import MergeRow, merge_rows
from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import CandidateRejected, LabProblem
from scheduler.domain.lab import Lab
from scheduler.domain.proposal import ProposalState
from scheduler.domain.result import Measurements, Scored
from scheduler.domain.run import Finished
from scheduler.policy.constants import read_constants

LONGEST_VALUE = 24  # characters of a constant worth showing: tables are not knobs


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over a candidate's scored runs; None where no run said.

    `tokens_per_s` is by the contract's clock: what a slot's neighbours do to its wall clock is not the candidate's.
    """

    tokens_per_s: float | None
    steps: float | None
    mfu: float | None
    peak_memory_mb: float | None
    loss_at: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class BriefFacts:
    """`contract` is None where this version cannot read it; `constants` are the baseline's, `figures` by candidate id.

    `open_ideas` counts asks that proposers work on.
    """

    lab: LabFacts
    contract: Contract | None
    constants: tuple[tuple[str, str], ...]
    figures: dict[str, Figures]
    merges: tuple[MergeRow, ...]
    failed_ideas: tuple[IdeaRow, ...]
    open_ideas: int


def read_brief_facts(ledger: Ledger, lab: Lab) -> BriefFacts:
    """Raises LedgerProblem when the ledger cannot be read."""
    facts = read_facts(ledger, lab)
    proposals = ledger.proposals.list(lab.tag)
    return BriefFacts(
        lab=facts,
        contract=_contract(lab),
        constants=_constants(ledger, facts),
        figures={candidate.id: _figures(facts, candidate) for candidate in facts.candidates},
        merges=merge_rows(facts),
        failed_ideas=idea_rows(facts, proposals, ProposalState.FAILED),
        open_ideas=sum(one.state is ProposalState.ASKED for one in proposals),
    )


def _contract(lab: Lab) -> Contract | None:
    try:
        return contract_of(lab)
    except LabProblem:
        return None


def _constants(ledger: Ledger, facts: LabFacts) -> tuple[tuple[str, str], ...]:
    if facts.board is None:
        return ()
    source = ledger.candidates.train_py(facts.board.baseline_id)
    try:
        found = read_constants(source.decode("utf-8", "replace"))
    except CandidateRejected:
        return ()
    return tuple((name, repr(value)) for name, value in found.items() if len(repr(value)) <= LONGEST_VALUE)


def _figures(facts: LabFacts, candidate: Candidate) -> Figures:
    measured = [
        run.state.result.measured
        for run in facts.runs_of[candidate.id]
        if isinstance(run.state, Finished) and isinstance(run.state.result.verdict, Scored)
    ]
    return Figures(
        tokens_per_s=_median(measured, _tokens_per_budget_s),
        steps=_median(measured, lambda run: run.steps),
        mfu=_median(measured, lambda run: run.mfu),
        peak_memory_mb=_median(measured, lambda run: run.peak_memory_mb),
        loss_at=measured[-1].loss_at if measured else (),
    )


def _tokens_per_budget_s(run: Measurements) -> float | None:
    return run.tokens / run.budget_used_s if run.tokens and run.budget_used_s else None


def _median(runs: Iterable[Measurements], of: Callable[[Measurements], float | None]) -> float | None:
    known = [value for run in runs if (value := of(run)) is not None]
    return statistics.median(known) if known else None
