"""results.tsv in the five columns that autoresearch defines: commit, val_bpb, memory_gb, status, description.

One row for every candidate that is decided, in the order of submission; a near-miss was not kept, so it is a discard.
Undecided and cancelled ones have no row, and the fresh runs of a claim change none.
Columns: https://github.com/karpathy/autoresearch/blob/master/program.md
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.run import Finished, Run
from scheduler.domain.text import one_line
from scheduler.views.facts import LabFacts
from scheduler.views.plain import View

HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
COMMIT_CHARACTERS = 7
MB_PER_GB = 1024

_STATUS = {
    CandidateState.BASELINE: "keep",
    CandidateState.PROMOTED: "keep",
    CandidateState.DISCARDED: "discard",
    CandidateState.SHELVED: "discard",
    CandidateState.FAILED: "crash",
}


@dataclass(frozen=True, slots=True)
class ResultRow(View):
    """One line. `val_bpb` is the mean over the candidate's runs and `memory_gb` their largest peak; a crash has 0."""

    commit: str
    val_bpb: float
    memory_gb: float
    status: str
    description: str

    def line(self) -> str:
        return f"{self.commit}\t{self.val_bpb:.6f}\t{self.memory_gb:.1f}\t{self.status}\t{self.description}"


def result_rows(facts: LabFacts) -> tuple[ResultRow, ...]:
    commits = {promotion.candidate_id: promotion.commit for promotion in facts.promotions}
    return tuple(_row(facts, c, commits.get(c.id, c.commit)) for c in facts.candidates if _is_reported(facts, c))


def results_tsv(rows: tuple[ResultRow, ...]) -> str:
    """The whole file; the last line ends, too."""
    return "\n".join([HEADER, *(row.line() for row in rows)]) + "\n"


def _is_reported(facts: LabFacts, candidate: Candidate) -> bool:
    """A baseline whose first run is still going on has nothing to report."""
    status = _STATUS.get(candidate.state)
    return status == "crash" or (status is not None and facts.standings[candidate.id].n > 0)


def _row(facts: LabFacts, candidate: Candidate, commit: str) -> ResultRow:
    status = _STATUS[candidate.state]
    crashed = status == "crash"
    return ResultRow(
        commit=commit[:COMMIT_CHARACTERS],
        val_bpb=0.0 if crashed else facts.standings[candidate.id].mean,
        memory_gb=0.0 if crashed else _peak_memory_mb(facts.runs_of[candidate.id]) / MB_PER_GB,
        status=status,
        description=one_line(candidate.title) or one_line(candidate.name),
    )


def _peak_memory_mb(runs: tuple[Run, ...]) -> float:
    measured = [run.state.result.measured.peak_memory_mb for run in runs if isinstance(run.state, Finished)]
    return max((peak for peak in measured if peak is not None), default=0.0)
