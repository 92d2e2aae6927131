"""What a search has spent, read from the ledger whenever the ledger has changed."""

from __future__ import annotations

import statistics

from scheduler.domain.lab import Board
from scheduler.domain.search import Search
from scheduler.policy.budget import Spent, claim_time_s
from scheduler.workspace import Workspace

UNKNOWN_RUN_S = 360.0  # until a run of the lab is over: a training budget of five minutes and what is around it


def spent(space: Workspace, search: Search, board: Board, *, ideas: int, open_asks: int) -> Spent:
    """`ideas` are the search's new candidates so far."""
    tallies, base = space.ledger.tallies, board.baseline
    return Spent(
        active_s=search.active_s,
        runs=tallies.finished_runs(space.tag, search.started_at),
        running=tallies.running_runs(space.tag),
        ideas=ideas,
        undecided=len(board.undecided) + open_asks,
        baseline_mean=base.mean if base.n else None,
        baseline_runs=base.n,
    )


def claim_estimate_s(space: Workspace, search: Search, board: Board, slots: int) -> float:
    """How long the end of the search will take, by the usual length of a run."""
    lengths = space.ledger.tallies.run_lengths_s(space.tag)
    run_s = statistics.median(lengths) if lengths else UNKNOWN_RUN_S
    return claim_time_s(search.settings.claim_runs, slots, run_s, promoted=not board.first_baseline)
