"""The leaderboard: every candidate by its mean val_bpb, with its effect on the baseline it was made from.

Effects are from all runs there are now, so one may have shrunk since its promotion; a decision compares with the
baseline of its moment, which may be a later one, and is `explain`'s. Scores alone rank: without one, no rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.result import Scored
from scheduler.domain.run import Finished, Run, Running
from scheduler.domain.text import one_line
from scheduler.views.facts import LabFacts
from scheduler.views.plain import View

MERGED = "merged"  # a near-miss by itself; a union or port has carried its patch into the baseline


@dataclass(frozen=True, slots=True)
class Row(View):
    """One candidate. `status` is its state in the ledger, `detail` what that means ("running", "crash", "near-miss").

    `origin` says who made it; `proposer` and `theme` are "" where none was named.
    """

    rank: int | None
    candidate: str
    name: str
    title: str
    status: str
    detail: str
    is_baseline: bool
    val_bpb: float | None
    val_bpb_se: float | None
    runs: int
    effect_bpb: float | None
    effect_se_bpb: float | None
    effect_shrunken_bpb: float | None
    p_better: float | None
    base: str | None
    suspect_runs: int
    origin: str
    proposer: str
    theme: str


@dataclass(frozen=True, slots=True)
class Leaderboard(View):
    """Ranked candidates first, then the others in the order of their submission."""

    tag: str
    contract: str
    baseline: str | None
    noise_sd_bpb: float | None
    noise_repeats: int
    candidates: tuple[Row, ...]


def leaderboard(facts: LabFacts) -> Leaderboard:
    rows = [candidate_row(facts, candidate) for candidate in facts.candidates]
    scored = sorted((row for row in rows if row.val_bpb is not None), key=lambda row: (row.val_bpb, row.candidate))
    ranked = [replace(row, rank=place) for place, row in enumerate(scored, 1)]
    return Leaderboard(
        tag=facts.lab.tag,
        contract=facts.lab.contract_name,
        baseline=facts.board.baseline_id if facts.board else None,
        noise_sd_bpb=facts.noise.sigma if facts.noise else None,
        noise_repeats=facts.noise.df if facts.noise else 0,
        candidates=(*ranked, *(row for row in rows if row.val_bpb is None)),
    )


def candidate_row(facts: LabFacts, candidate: Candidate) -> Row:
    """One candidate as the leaderboard shows it, not ranked yet."""
    standing, effect = facts.standings.get(candidate.id), facts.effect(candidate)
    scored = standing is not None and standing.n > 0
    return Row(
        rank=None,
        candidate=candidate.id,
        name=one_line(candidate.name),
        title=one_line(candidate.title),
        status=candidate.state.value,
        detail=_detail(facts, candidate),
        is_baseline=candidate.state is CandidateState.BASELINE,
        val_bpb=standing.mean if standing and scored else None,
        val_bpb_se=facts.noise.sigma / math.sqrt(standing.n) if facts.noise and standing and scored else None,
        runs=standing.n if standing else 0,
        effect_bpb=effect.diff if effect else None,
        effect_se_bpb=effect.se if effect else None,
        effect_shrunken_bpb=effect.shrunken if effect else None,
        p_better=effect.p_better if effect else None,
        base=candidate.base_id,
        suspect_runs=standing.suspect_scores if standing else 0,
        origin=candidate.origin.value,
        proposer=one_line(candidate.proposer),
        theme=one_line(candidate.theme),
    )


def _detail(facts: LabFacts, candidate: Candidate) -> str:
    if candidate.state is CandidateState.SHELVED and candidate.id in facts.in_force:
        return MERGED
    return describe_state(candidate, facts.runs_of[candidate.id])


def describe_state(candidate: Candidate, runs: tuple[Run, ...]) -> str:
    """The state in a word that says what goes on: an open candidate runs or waits, a failed one names its failure."""
    if candidate.state is CandidateState.PROMOTED and candidate.base_id is None:
        return "first"
    if candidate.state is CandidateState.FAILED:
        return last_failure(runs) or candidate.state.value
    if candidate.state is CandidateState.SHELVED:
        return "near-miss"
    if not candidate.state.undecided:
        return candidate.state.value
    if candidate.origin.merged:
        return _describe_merged(candidate, runs)
    if any(isinstance(run.state, Running) for run in runs):
        return "running" if candidate.state is CandidateState.OPEN else "repeat runs"
    if all(isinstance(run.state, Finished) for run in runs):
        return "undecided"
    return "queued" if candidate.state is CandidateState.OPEN else "repeat due"


def _describe_merged(candidate: Candidate, runs: tuple[Run, ...]) -> str:
    """An undecided union or port: "union runs", "port due"."""
    running = any(isinstance(run.state, Running) for run in runs)
    over = all(isinstance(run.state, Finished) for run in runs)
    return f"{candidate.origin.value} {'runs' if running else 'undecided' if over else 'due'}"


def last_failure(runs: tuple[Run, ...]) -> str:
    """Status of the last run that ended without a score, like "crash" or "timeout: train"; "" without one."""
    verdicts = [run.state.result.verdict for run in runs if isinstance(run.state, Finished)]
    failures = [verdict for verdict in verdicts if not isinstance(verdict, Scored)]
    return one_line(failures[-1].status) if failures else ""
