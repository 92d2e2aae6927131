"""Everything the ledger knows of one lab, read once: what every other view is built from.

Other processes may write meanwhile. Rows are never deleted, so reading what refers before what is referred to keeps
every reference good.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from scheduler.domain.candidate import Candidate, CandidateState, Standing
from scheduler.domain.decision import Combine, DecisionRecord, Effect, Noise, Promotion
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Board, Lab
from scheduler.domain.merge import Merge
from scheduler.domain.run import Cancelled, Finished, Run, Running
from scheduler.ledger import Ledger
from scheduler.policy.gates import effect_of
from scheduler.policy.noise import board_noise
from scheduler.policy.patches import Patches


@dataclass(frozen=True)
class LabFacts:
    """`board` and `noise` are None while the lab has no baseline.

    `runs` are in the order of their queueing; `queued` in the order in which equals are placed.
    """

    lab: Lab
    board: Board | None
    noise: Noise | None
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]
    queued: tuple[Run, ...]
    decisions: tuple[DecisionRecord, ...]
    promotions: tuple[Promotion, ...]

    @cached_property
    def runs_of(self) -> dict[str, tuple[Run, ...]]:
        """Candidate id -> its runs; every candidate has an entry."""
        found: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            found[run.candidate_id].append(run)
        return {candidate.id: tuple(found[candidate.id]) for candidate in self.candidates}

    @cached_property
    def decisions_of(self) -> dict[str, tuple[DecisionRecord, ...]]:
        """Candidate id -> the decisions on it, oldest first, the merges it was a part of among them."""
        found: dict[str, list[DecisionRecord]] = defaultdict(list)
        for record in self.decisions:
            for ref in _subjects(record):
                found[ref].append(record)
        return {candidate.id: tuple(found[candidate.id]) for candidate in self.candidates}

    @cached_property
    def by_id(self) -> dict[str, Candidate]:
        return {candidate.id: candidate for candidate in self.candidates}

    @cached_property
    def standings(self) -> dict[str, Standing]:
        return {s.candidate_id: s for s in self.board.standings} if self.board else {}

    @property
    def merges(self) -> tuple[Merge, ...]:
        """All unions and ports, those that gave no program included, oldest first."""
        return self.board.merges if self.board else ()

    @cached_property
    def in_force(self) -> frozenset[str]:
        """Ids of the candidates whose patches are in the baseline's program, through merges too."""
        return Patches(self.board).in_force() if self.board else frozenset()

    @cached_property
    def near_misses(self) -> tuple[Candidate, ...]:
        """The shelf: kept for what they did, and not in the baseline by now."""
        shelf = (candidate for candidate in self.candidates if candidate.state is CandidateState.SHELVED)
        return tuple(candidate for candidate in shelf if candidate.id not in self.in_force)

    @property
    def running(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if isinstance(run.state, Running))

    @property
    def finished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if isinstance(run.state, Finished))

    @property
    def cancelled(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if isinstance(run.state, Cancelled))

    def name(self, candidate_id: str) -> str:
        candidate = self.by_id.get(candidate_id)
        return candidate.name if candidate else candidate_id

    def effect(self, candidate: Candidate) -> Effect | None:
        """What the idea did to the baseline it was made from, by all runs there are now and the noise now known.

        None without a score on both sides. The baseline it was judged against may be a later one: see its decisions.
        """
        base = self.standings.get(candidate.base_id or "")
        standing = self.standings.get(candidate.id)
        if self.noise is None or base is None or standing is None or not base.n or not standing.n:
            return None
        return effect_of(standing, base, self.noise)


def read_facts(ledger: Ledger, lab: Lab) -> LabFacts:
    """Raises LedgerProblem when the ledger cannot be read."""
    promotions = ledger.decisions.promotions(lab.tag)
    decisions = ledger.decisions.history(lab.tag)
    runs, queued = ledger.runs.list(lab.tag), ledger.runs.queued(lab.tag)
    candidates = ledger.candidates.list(lab.tag)
    try:
        board = ledger.board(lab.tag)
    except LabProblem:
        board = None  # `arsched init` has not come so far
    noise = board_noise(board) if board else None
    return LabFacts(lab, board, noise, candidates, runs, queued, decisions, promotions)


def _subjects(record: DecisionRecord) -> tuple[str, ...]:
    return record.decision.parts if isinstance(record.decision, Combine) else (record.candidate.candidate_id,)
