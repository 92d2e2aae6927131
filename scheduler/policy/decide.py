"""The next decision due on a board, one at a time: apply it, look at the new board, ask again.

Decisions fall on every result, never at a round's end. Before the first baseline has all its runs nothing is judged;
a later baseline is comparable from its first run. Values in, values out.
"""

from __future__ import annotations

from scheduler.domain.candidate import CandidateState, Standing
from scheduler.domain.decision import Decision, Discard, MeasureBaseline, Noise, Promote, Replicate, Retry
from scheduler.domain.lab import Board
from scheduler.policy.gates import judge_candidate
from scheduler.policy.noise import board_noise


def decide(board: Board) -> Decision | None:
    """The most urgent decision, or None when the board waits for results (or for nothing at all)."""
    return _measure_first_baseline(board) or _settle_failures(board) or _judge(board) or _top_up_baseline(board)


def baseline_is_hopeless(board: Board) -> bool:
    """True when the baseline has no score, no run on its way and has failed often enough: the lab cannot go on."""
    base = board.baseline
    return not base.scores and not base.pending_runs and base.failed_runs >= board.gates.max_runs


def _measure_first_baseline(board: Board) -> MeasureBaseline | None:
    base, wanted = board.baseline, board.gates.first_baseline_runs
    if not board.first_baseline or baseline_is_hopeless(board):
        return None
    if base.n + base.pending_runs >= wanted or base.failed_runs >= wanted + board.gates.max_runs:
        return None
    return MeasureBaseline(base.candidate_id, f"the first baseline needs {wanted} runs")


def _settle_failures(board: Board) -> Discard | Retry | None:
    for standing in board.undecided:
        if standing.pending_runs or not standing.failed_runs:
            continue
        if not standing.scores:
            return Discard(standing.candidate_id, board.baseline_id, None, standing.failure or "no valid score")
        if standing.state is CandidateState.CONTENDER and standing.failed_runs == 1 and _owed_a_retry(standing, board):
            return Retry(standing.candidate_id, f"a repeat failed ({standing.failure}): one more try")
    return None


def _owed_a_retry(standing: Standing, board: Board) -> bool:
    return standing.n + standing.failed_runs < board.gates.max_runs and standing.n < 2


def _comparable(board: Board) -> bool:
    base = board.baseline
    if board.first_baseline:
        return bool(base.scores) and not base.pending_runs
    return bool(base.scores)


def _judge(board: Board) -> Promote | Replicate | Discard | None:
    """Promotions first, the best mean before others; then repeats and discards in the order of submission."""
    if not _comparable(board):
        return None
    noise = board_noise(board)
    verdicts = [_verdict(standing, board, noise) for standing in _due(board)]
    promotions = [verdict for verdict in verdicts if isinstance(verdict, Promote)]
    if promotions:
        return min(promotions, key=lambda verdict: board.of(verdict.candidate_id).mean)
    return verdicts[0] if verdicts else None


def _due(board: Board) -> list[Standing]:
    return [s for s in board.undecided if s.scores and not s.pending_runs]


def _verdict(standing: Standing, board: Board, noise: Noise) -> Promote | Replicate | Discard:
    return judge_candidate(standing, board.baseline, noise, board.gates)


def _top_up_baseline(board: Board) -> MeasureBaseline | None:
    """A promoted baseline gets its second run: the next comparison is against it."""
    base, wanted = board.baseline, board.gates.baseline_runs
    if board.first_baseline or base.failed_runs >= board.gates.max_runs or base.n + base.pending_runs >= wanted:
        return None
    return MeasureBaseline(base.candidate_id, f"a baseline is measured {wanted} times")
