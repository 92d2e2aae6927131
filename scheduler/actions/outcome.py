"""How a candidate stands, in a few words with its numbers: for refusals and for the end of a command."""

from __future__ import annotations

from scheduler.domain.candidate import Candidate, CandidateState, Standing
from scheduler.domain.decision import MeasureBaseline, Retry
from scheduler.workspace import Workspace

_WORDS = {
    CandidateState.OPEN: "waiting for its first result",
    CandidateState.CONTENDER: "promising, being repeated",
    CandidateState.BASELINE: "the baseline",
    CandidateState.PROMOTED: "a former baseline",
}


def describe_outcome(space: Workspace, candidate: Candidate) -> str:
    """Like "discarded, val_bpb 1.9523 over 2 runs" or "failed: crash"."""
    standing = space.ledger.board(space.tag).of(candidate.id)
    word = _WORDS.get(standing.state, standing.state.value)
    return f"{word}{_numbers(standing)}"


def last_sentence(space: Workspace, candidate: Candidate) -> str:
    """The last verdict on a candidate in its own words; "" while there is none. More runs of a baseline are none."""
    records = space.ledger.decisions.of_candidate(candidate.id)
    verdicts = [record for record in records if not isinstance(record.decision, MeasureBaseline | Retry)]
    return verdicts[-1].sentence if verdicts else ""


def _numbers(standing: Standing) -> str:
    if standing.n:
        return f", val_bpb {standing.mean:.4f} over {standing.n} run{'s' if standing.n > 1 else ''}"
    return f": {standing.failure}" if standing.failure else ""
