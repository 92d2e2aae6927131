"""How long one decision takes: decide() and near_miss_union() on a lab late in a search, in µs of this process.

The lab has 60 standings that matter (baselines, candidates on trial, a shelf) and as many merges behind it as a search
makes. Prints the median of many calls on fresh snapshots, nothing cached between them. Measures no ledger and no git.

    python benchmarks/bench_decide.py [--live 60] [--merges 30] [--calls 2000]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from scheduler.domain.candidate import CandidateState, CandidateStats, Origin
from scheduler.domain.decision import PRESETS, Merge
from scheduler.domain.lab import LabSnapshot
from scheduler.policy.decide import decide
from scheduler.policy.merging import near_miss_union

SIGMA = 0.0005
STATES = (CandidateState.OPEN, CandidateState.CONTENDER, CandidateState.SHELVED, CandidateState.SHELVED)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--live", type=int, default=60)
    parser.add_argument("--merges", type=int, default=30)
    parser.add_argument("--calls", type=int, default=2000)
    args = parser.parse_args()
    boards = [make_board(random.Random(seed), args.live, args.merges) for seed in range(20)]
    print(f"{args.live} standings, {args.merges} merges: median of {args.calls} calls, 90th percentile")
    print_timing("decide()", decide, boards, args.calls)
    print_timing("near_miss_union()", lambda board: near_miss_union(board, 8), boards, args.calls)


def make_board(rng: random.Random, live: int, merges: int) -> LabSnapshot:
    """Candidates of the current baseline and the one before; nearly all of the undecided wait for a run."""
    standings = [
        CandidateStats("c0001", "first", None, CandidateState.PROMOTED, (1.0, 1.0, 1.0)),
        CandidateStats("c0002", "second", "c0001", CandidateState.BASELINE, (0.998, 0.998, 0.998, 0.998)),
    ]
    standings += [candidate(rng, number) for number in range(3, live + 1)]
    shelf = [s.candidate_id for s in standings if s.state is CandidateState.SHELVED]
    made = tuple(merge(rng, number, shelf) for number in range(1, merges + 1))
    merged = [CandidateStats(m.candidate_id or "", "m", "c0001", CandidateState.DISCARDED, (1.0, 1.0)) for m in made]
    united = [replace(standing, origin=Origin.UNION) for standing in merged]
    return LabSnapshot("c0002", False, (*standings, *united), SIGMA, PRESETS["default"], made)


def candidate(rng: random.Random, number: int) -> CandidateStats:
    state = rng.choice(STATES)
    base = "c0002" if state is CandidateState.CONTENDER else rng.choice(("c0001", "c0002", "c0002"))
    scores = tuple(rng.gauss(0.998, SIGMA) for _ in range(rng.choice((1, 1, 2, 3))))
    pending = int(state.undecided and rng.random() < 0.9)
    return CandidateStats(f"c{number:04d}", f"idea-{number}", base, state, scores, pending)


def merge(rng: random.Random, number: int, shelf: Sequence[str]) -> Merge:
    parts = tuple(rng.sample(shelf, min(len(shelf), rng.choice((1, 2, 3, 4)))))
    return Merge(number, "c0001", parts, parts, f"c{9000 + number}", rng.choice((0, 0, 1, 2)), -0.001)


def print_timing(what: str, ask: Callable[[LabSnapshot], object], boards: Sequence[LabSnapshot], calls: int) -> None:
    took = []
    for call in range(calls):
        fresh = replace(boards[call % len(boards)])  # what a board remembers is forgotten
        began = time.process_time()
        ask(fresh)
        took.append((time.process_time() - began) * 1e6)
    took.sort()
    print(f"{what:20} {statistics.median(took):8.0f} µs {took[int(0.9 * calls)]:8.0f} µs")


if __name__ == "__main__":
    main()
