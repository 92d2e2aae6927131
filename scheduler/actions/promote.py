"""A promotion by hand: the same commit, record and branch as the rule's own, with the effect as it was measured.

The rule is not asked; the record says that. A candidate without a trusted score cannot become the baseline: nothing
could be compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.candidate import Candidate, CandidateState, Standing
from scheduler.domain.decision import Promote
from scheduler.domain.errors import NotYet
from scheduler.policy.explain import explain_decision
from scheduler.policy.gates import effect_of
from scheduler.policy.noise import board_noise
from scheduler.queue.deciding import look
from scheduler.queue.promotion import follow_ledger
from scheduler.queue.promotion import promote as carry_out
from scheduler.workspace import Workspace

REASON = "promoted by hand"
_CANNOT = (CandidateState.BASELINE, CandidateState.PROMOTED, CandidateState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Promoted:
    """`commit` is "" in a dry run; `followed` is the checkout that went along, "" when there is none."""

    candidate: Candidate
    decision: Promote
    sentence: str
    commit: str = ""
    followed: str = ""


def promote_by_hand(space: Workspace, ref: str, *, dry_run: bool = False) -> Promoted:
    """Raises UsageProblem, NotYet when it has no score yet, LedgerProblem, GitProblem, LabProblem."""
    candidate = space.ledger.candidates.get(ref, space.tag)
    moment = look(space)
    board = moment.board
    standing, base, noise = board.of(candidate.id), board.baseline, board_noise(board)
    _check(candidate, standing, base)
    effect = effect_of(standing, base, noise)
    decision = Promote(candidate.id, base.candidate_id, effect, REASON)
    sentence = f"{explain_decision(decision, candidate.name)}  by hand"
    if dry_run:
        return Promoted(candidate, decision, sentence)
    if not candidate.state.undecided:
        space.ledger.candidates.set_state(candidate.id, candidate.state, CandidateState.CONTENDER, REASON)
    commit = carry_out(space, decision, standing, noise, sentence, result_mark=moment.result_mark)
    return Promoted(candidate, decision, sentence, commit, follow_ledger(space))


def _check(candidate: Candidate, standing: Standing, base: Standing) -> None:
    who = f"{candidate.id} {candidate.name}"
    if candidate.state in _CANNOT:
        raise NotYet(f"{who} is {candidate.state}, nothing was changed", "see: arsched leaderboard")
    if not standing.n or standing.n == standing.suspect_scores:
        what = "only suspect scores" if standing.n else "no score"
        raise NotYet(f"{who} has {what} yet", f"run it (again): arsched submit --again candidates/{candidate.name}")
    if not base.n:
        raise NotYet("the baseline has no score yet", "run it first: arsched submit")
