"""The next decision due on a board, one at a time: apply it, look at the new board, ask again.

Decisions fall on every result, never at a round's end. Before the first baseline has all its runs nothing is judged;
a later baseline is comparable from its first run on. Does not apply anything, and remembers nothing.

What a decision is taken from: the baselines past and present, the undecided, the shelved, the merged, and whoever has
two scores or more. A board without the others gives the same decisions.
"""

from __future__ import annotations

import math

from scheduler.domain.candidate import CandidateState, Standing
from scheduler.domain.decision import (
    Decision,
    Discard,
    MeasureBaseline,
    Noise,
    Promote,
    Replicate,
    Retry,
)
from scheduler.domain.lab import Board
from scheduler.policy.combine import halve_failed_union, own_base, settle_left_behind
from scheduler.policy.displaced import recover_displaced
from scheduler.policy.gates import MAX_FAILED, Verdict, judge_candidate
from scheduler.policy.noise import board_noise


def decide(board: Board) -> Decision | None:
    """The most urgent decision, or None when the board waits for results (or for nothing at all)."""
    return _measure_baseline(board) or _settle_scoreless(board) or _judge(board)


def baseline_is_hopeless(board: Board) -> bool:
    """True when the baseline has no score, no run on its way and has failed often enough: the lab cannot go on."""
    base = board.baseline
    return not base.scores and not base.pending_runs and base.failed_runs >= _failures_allowed(board)


def _measure_baseline(board: Board) -> MeasureBaseline | None:
    base, wanted = board.baseline, _runs_wanted(board) + _runs_earned(board)
    if base.n + base.pending_runs >= wanted or base.failed_runs >= _failures_allowed(board):
        return None
    if not base.scores and base.pending_runs + base.failed_runs >= _failures_allowed(board):
        return None  # whether it runs at all is about to be known
    which = "the first baseline" if board.first_baseline else "a baseline"
    return MeasureBaseline(base.candidate_id, f"{which} is measured {wanted} times, {base.n} so far")


def _runs_wanted(board: Board) -> int:
    return board.gates.first_baseline_runs if board.first_baseline else board.gates.baseline_runs


def _runs_earned(board: Board) -> int:
    """A baseline that lasts is what every idea is held against: it earns another run now and then, up to a limit."""
    gates = board.gates
    if not gates.baseline_every:
        return 0
    return min(board.trials_on_baseline // gates.baseline_every, max(0, gates.max_baseline_runs - _runs_wanted(board)))


def _failures_allowed(board: Board) -> int:
    """Failed runs after which a baseline is not tried again; one that has a score is then compared with as it is."""
    return max(_runs_wanted(board), board.gates.max_runs, MAX_FAILED)


def _settle_scoreless(board: Board) -> Discard | None:
    """A candidate that can get no score any more needs no baseline to be settled."""
    for standing in board.undecided:
        if not standing.scores and not standing.pending_runs:
            reason = standing.failure or "its runs were cancelled"
            return Discard(standing.candidate_id, board.baseline_id, None, reason)
    return None


def _is_comparable(board: Board) -> bool:
    """The first baseline is compared with once it is measured, or as far as it ever will be."""
    base = board.baseline
    if not board.first_baseline:
        return bool(base.scores)
    return base.n >= _runs_wanted(board) or (bool(base.scores) and not base.pending_runs)


def _judge(board: Board) -> Decision | None:
    """Promotions first, then what a promotion left behind, then everything else in the order of submission."""
    if not _is_comparable(board):
        return None
    noise = board_noise(board)
    due = [standing for standing in board.undecided if not standing.pending_runs]
    verdicts = [_verdict(standing, board, noise) for standing in due]
    promotions = [verdict for verdict in verdicts if isinstance(verdict, Promote)]
    if promotions:
        return _best(promotions, board)
    unsettled = settle_left_behind(board, noise) or recover_displaced(board, noise) or halve_failed_union(board)
    if unsettled:
        return unsettled
    return _as_retry(due[0], verdicts[0]) if verdicts else None


def _verdict(standing: Standing, board: Board, noise: Noise) -> Verdict:
    own = own_base(standing, board)
    moved = own.candidate_id != board.baseline_id
    return judge_candidate(standing, board.baseline, noise, board.gates, own if moved else None)


def _best(promotions: list[Promote], board: Board) -> Promote:
    """The lowest mean; among those within a standard error of it, the one with the fewest lines of code."""
    of = {promotion.candidate_id: board.of(promotion.candidate_id) for promotion in promotions}
    lowest = min(promotions, key=lambda promotion: _by_mean(of[promotion.candidate_id]))
    best, sigma = of[lowest.candidate_id], lowest.effect.sigma
    if not best.code_lines:
        return lowest
    near = [p for p in promotions if _within_noise(of[p.candidate_id], best, sigma) and of[p.candidate_id].code_lines]
    return min(near, key=lambda p: (of[p.candidate_id].code_lines, *_by_mean(of[p.candidate_id])))


def _within_noise(standing: Standing, best: Standing, sigma: float) -> bool:
    return standing.mean - best.mean <= sigma * math.sqrt(1 / standing.n + 1 / best.n)


def _by_mean(standing: Standing) -> tuple[float, int, str]:
    """Ids break ties, so that the order of the board does not choose."""
    return standing.mean, len(standing.candidate_id), standing.candidate_id


def _as_retry(standing: Standing, verdict: Verdict) -> Verdict | Retry:
    """The first repeat of a contender that failed is run again for that reason, not for its probability."""
    failed = standing.state is CandidateState.CONTENDER and standing.n == 1 and standing.failed_runs == 1
    if failed and isinstance(verdict, Replicate):
        return Retry(standing.candidate_id, f"its repeat failed ({standing.failure}): one more try")
    return verdict
