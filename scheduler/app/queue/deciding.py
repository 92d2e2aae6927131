"""The decide step: every decision that is due, taken by the policy, carried out in ledger and git.

Taking decisions is scheduler.policy's; when to ask is the loop's.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.app.queue.promotion import follow_ledger, promote
from scheduler.app.workspace import Workspace
from scheduler.domain.decision import Decision, MeasureBaseline, Promote
from scheduler.domain.errors import GitProblem, LabProblem, LedgerProblem
from scheduler.domain.lab import Board
from scheduler.policy.decide import baseline_is_hopeless, decide
from scheduler.policy.explain import explain_decision
from scheduler.policy.noise import board_noise

_COLLISIONS = 5  # decisions in a row that another process made stale


def decide_all(space: Workspace, say: Callable[[str], None]) -> int:
    """Take every decision due on the board, one after the other. Returns how many.

    Raises LabProblem when the baseline cannot be measured, LedgerProblem when the ledger fails.
    """
    taken = collisions = 0
    while (due := next_decision(space)) is not None:
        board, decision = due
        try:
            say(_carry_out(space, board, decision))
        except LedgerProblem:
            collisions += 1
            if collisions == _COLLISIONS:
                raise
            continue
        taken, collisions = taken + 1, 0
        if isinstance(decision, Promote):
            _move_branch(space, say)
    return taken


def next_decision(space: Workspace) -> tuple[Board, Decision] | None:
    """The decision due now and the board it is due on. Raises LabProblem when the baseline is hopeless."""
    board = space.ledger.board(space.tag)
    if baseline_is_hopeless(board):
        base = board.baseline
        message = f"the baseline {base.candidate_id} has no score after {base.failed_runs} runs: {base.failure}"
        raise LabProblem(message, f"see `arsched logs {base.candidate_id}`; mend train.py and init another tag")
    decision = decide(board)
    return None if decision is None else (board, decision)


def _carry_out(space: Workspace, board: Board, decision: Decision) -> str:
    """Returns the sentence that says it."""
    ref = decision.base_id if isinstance(decision, MeasureBaseline) else decision.candidate_id
    standing, noise = board.of(ref), board_noise(board)
    sentence = explain_decision(decision, standing.name)
    if isinstance(decision, Promote):
        promote(space, decision, standing, noise, sentence)
    else:
        space.ledger.decisions.apply(space.tag, decision, noise=noise, sentence=sentence)
    return sentence


def _move_branch(space: Workspace, say: Callable[[str], None]) -> None:
    try:
        followed = follow_ledger(space)
    except (GitProblem, LabProblem) as problem:
        say(f"note: the promotion stands, but the branch {space.lab.branch} did not move: {problem.message}")
        say(f"      {problem.hint}")
    else:
        if followed:
            say(f"note: {followed} has the branch checked out and follows")
