"""What a brief is made of, read from the ledger once: plain values, no words yet."""

from __future__ import annotations

from dataclasses import dataclass

from harness.contract import Contract
from scheduler.contracts import contract_of
from scheduler.domain.errors import CandidateRejected, LabProblem
from scheduler.domain.lab import Lab
from scheduler.domain.proposal import ProposalState
from scheduler.ledger import Ledger
from scheduler.policy.constants import read_constants
from scheduler.views.facts import LabFacts, read_facts
from scheduler.views.ideas import IdeaRow, idea_rows
from scheduler.views.medians import Medians, medians_of
from scheduler.views.merging import MergeRow, merge_rows
from scheduler.views.themes import Theme, read_themes

LONGEST_VALUE = 24  # characters of a constant worth showing: tables are not knobs


@dataclass(frozen=True)
class BriefFacts:
    """`contract` is None where this version cannot read it; `constants` are the baseline's, `baseline` its figures.

    `open_ideas` counts asks that proposers work on.
    """

    lab: LabFacts
    contract: Contract | None
    constants: tuple[tuple[str, str], ...]
    baseline: Medians | None
    themes: tuple[Theme, ...]
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
        baseline=medians_of(facts, facts.by_id[facts.board.baseline_id]) if facts.board else None,
        themes=read_themes(facts),
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
