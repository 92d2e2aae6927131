"""The decide step: every decision that is due, taken by the policy, carried out in ledger and git.

Taking decisions is scheduler.policy's; when to ask is the loop's. What needs git is done first and outside the
ledger's transaction: a crash in between leaves a commit nobody refers to, and the decision is taken again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scheduler.domain.candidate import Standing
from scheduler.domain.decision import Combine, Decision, MeasureBaseline, Promote
from scheduler.domain.errors import GitProblem, LabProblem, LedgerProblem
from scheduler.domain.lab import Board
from scheduler.domain.merge import Assembled
from scheduler.policy.decide import baseline_is_hopeless, decide
from scheduler.policy.explain import explain_decision
from scheduler.policy.noise import board_noise
from scheduler.queue.combining import assemble
from scheduler.queue.promotion import follow_ledger, promote
from scheduler.workspace import Workspace

_COLLISIONS = 5  # decisions in a row that another process made stale


@dataclass(frozen=True, slots=True)
class Moment:
    """The board a decision is taken on; `result_mark` is the last result on it."""

    board: Board
    result_mark: int


def decide_all(space: Workspace, say: Callable[[str], None]) -> int:
    """Take every decision due on the board, one after the other. Returns how many.

    Raises LabProblem when the baseline cannot be measured, LedgerProblem when the ledger fails, GitProblem when git
    does.
    """
    taken = collisions = 0
    while True:
        moment = look(space)
        decision = _due(moment.board)
        if decision is None:
            return taken
        try:
            carry_out(space, moment, decision, say)
        except LedgerProblem:
            collisions += 1
            if collisions == _COLLISIONS:
                raise
            continue
        taken, collisions = taken + 1, 0


def next_decision(space: Workspace) -> tuple[Board, Decision] | None:
    """The decision due now and the board it is due on. Raises LabProblem when the baseline is hopeless."""
    board = space.ledger.board(space.tag)
    decision = _due(board)
    return None if decision is None else (board, decision)


def look(space: Workspace) -> Moment:
    """The board as it is, with the mark that a decision on it is recorded with."""
    with space.ledger.snapshot():
        return Moment(space.ledger.board(space.tag), space.ledger.runs.last_result())


def carry_out(space: Workspace, moment: Moment, decision: Decision, say: Callable[[str], None]) -> None:
    """Carry one decision out and say it. Raises LedgerProblem, with nothing changed, when somebody else was first."""
    standing, noise = _subject(moment.board, decision), board_noise(moment.board)
    sentence = explain_decision(decision, standing.name)
    match decision:
        case Promote():
            promote(space, decision, standing, noise, sentence, result_mark=moment.result_mark)
            say(sentence)
            _move_branch(space, say)
        case Combine():
            _combine(space, moment, decision, sentence, say)
        case _:
            space.ledger.decisions.apply(
                space.tag, decision, noise=noise, sentence=sentence, result_mark=moment.result_mark
            )
            say(sentence)


def _due(board: Board) -> Decision | None:
    if baseline_is_hopeless(board):
        base = board.baseline
        message = f"the baseline {base.candidate_id} has no score after {base.failed_runs} runs: {base.failure}"
        raise LabProblem(message, f"see `arsched logs {base.candidate_id}`; mend train.py and init another tag")
    return decide(board)


def _subject(board: Board, decision: Decision) -> Standing:
    match decision:
        case MeasureBaseline(base_id=ref):
            return board.of(ref)
        case Combine(parts=parts):
            return board.of(parts[0])
        case _:
            return board.of(decision.candidate_id)


def _combine(space: Workspace, moment: Moment, decision: Combine, sentence: str, say: Callable[[str], None]) -> None:
    made = assemble(space, decision)
    space.ledger.decisions.apply(
        space.tag,
        decision,
        noise=board_noise(moment.board),
        sentence=sentence,
        assembled=made if isinstance(made, Assembled) else None,
        problem=made if isinstance(made, str) else "",
        result_mark=moment.result_mark,
        merges_seen=len(moment.board.merges),
    )
    say(sentence)
    if isinstance(made, str):
        say(f"          nothing came of it: {made}")
        return
    candidate = space.ledger.candidates.get(made.name, space.tag)
    space.repo.keep_ref(space.tag, candidate.id, candidate.commit)
    say(f"          {candidate.id} {candidate.name} is queued: {candidate.title}")
    for part, why in made.skipped:
        say(f"          {part} was left out: {why}")


def _move_branch(space: Workspace, say: Callable[[str], None]) -> None:
    try:
        followed = follow_ledger(space)
    except (GitProblem, LabProblem) as problem:
        say(f"note: the promotion stands, but the branch {space.lab.branch} did not move: {problem.message}")
        say(f"      {problem.hint}")
    else:
        if followed:
            say(f"note: {followed} has the branch checked out and follows")
