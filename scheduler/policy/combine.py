"""What becomes of the contenders a promotion left behind, and of a union that failed.

Contenders of an older baseline whose P(better than their own baseline) is at least `combine_from`, or that have no
score yet, go into one union on the new baseline, the likeliest first. A union that failed is tried again with its
better half, at most `max_halvings` times. Near-misses are scheduler.policy.union's; merging text is not done here.
"""

from __future__ import annotations

import math

from scheduler.domain.candidate import CandidateState, Standing
from scheduler.domain.decision import Combine, Noise
from scheduler.domain.lab import Board
from scheduler.domain.merge import Merge
from scheduler.policy.effects import effect_of, trusted_chance
from scheduler.policy.gates import Verdict, judge_candidate
from scheduler.policy.patches import Patches

_LOST = (CandidateState.DISCARDED, CandidateState.FAILED)


def settle_left_behind(board: Board, noise: Noise) -> Verdict | None:
    """The decision due on contenders of an older baseline: one union of the promising, then the others one by one.

    Their runs still on their way are not waited for: those results are recorded and decide nothing.
    """
    left = [s for s in board.undecided if s.state is CandidateState.CONTENDER and s.base_id != board.baseline_id]
    if not left or not board.gates.combine:
        return None
    patches = Patches(board)
    tired = {leaf for leaf, ports in patches.ports().items() if ports >= board.gates.max_ports}
    barred = tired | patches.on_trial(board.baseline_id) | patches.in_force()
    portable = {s.candidate_id for s in left if not patches.leaves(s.candidate_id) & barred}
    return _unite(board, noise, [s for s in left if s.candidate_id in portable], patches) or _part_with(
        board, noise, left, portable
    )


def halve_failed_union(board: Board) -> Combine | None:
    """The better half of the oldest union that failed and was not halved yet, without patches in force by now."""
    if not board.gates.combine or not board.merges:
        return None
    patches = Patches(board)
    taken: frozenset[str] | None = None
    for merge in board.merges:
        if merge.halving < board.gates.max_halvings and _failed(merge, board) and not _halved(merge, board.merges):
            taken = patches.in_force() | patches.on_trial() if taken is None else taken
            half = tuple(part for part in _better_half(merge, board) if not patches.leaves(part) & taken)
            if half:
                reason = f"the union {merge.candidate_id} of {len(merge.merged)} failed: its better half alone"
                predicted = merge.predicted * len(half) / len(merge.merged)
                return Combine(board.baseline_id, half, merge.halving + 1, predicted, reason)
    return None


def predicted_effect(standing: Standing, board: Board, noise: Noise) -> float:
    """The shrunken effect on its own baseline, in bpb; for a merge without a score the sum it was made with."""
    if standing.scores:
        return effect_of(standing, own_base(standing, board), noise).shrunken
    return next((m.predicted for m in board.merges if m.candidate_id == standing.candidate_id), 0.0)


def own_base(standing: Standing, board: Board) -> Standing:
    """The baseline a candidate was made from; the current one where that has no score to compare with."""
    base = board.of(standing.base_id) if standing.base_id else board.baseline
    return base if base.scores else board.baseline


def _unite(board: Board, noise: Noise, left: list[Standing], patches: Patches) -> Combine | None:
    chances = [(_chance(standing, board, noise), standing) for standing in left]
    ranked = sorted(chances, key=lambda pair: (-pair[0], len(pair[1].candidate_id), pair[1].candidate_id))
    parts: list[Standing] = []
    for chance, standing in ranked:
        leaves = patches.leaves(standing.candidate_id)
        if chance >= board.gates.combine_from and not any(leaves & patches.leaves(p.candidate_id) for p in parts):
            parts.append(standing)
    if not parts:
        return None
    predicted = sum(predicted_effect(standing, board, noise) for standing in parts)
    which = "it is" if len(parts) == 1 else f"{len(parts)} contenders are"
    reason = f"a promotion left it behind: {which} at P(better) ≥ {board.gates.combine_from:.2f} still"
    return Combine(board.baseline_id, tuple(s.candidate_id for s in parts), 0, predicted, reason)


def _part_with(board: Board, noise: Noise, left: list[Standing], portable: set[str]) -> Verdict | None:
    for standing in left:
        if standing.scores:
            ported = standing.candidate_id in portable
            own = own_base(standing, board)
            return judge_candidate(standing, board.baseline, noise, board.gates, own, may_port=ported)
    return None


def _chance(standing: Standing, board: Board, noise: Noise) -> float:
    """P(better than its own baseline); a contender without a score is one by its parts' merit, so far."""
    if not standing.scores:
        return board.gates.combine_from
    return trusted_chance(standing, own_base(standing, board), noise)


def _failed(merge: Merge, board: Board) -> bool:
    return merge.candidate_id is not None and len(merge.merged) > 1 and board.of(merge.candidate_id).state in _LOST


def _halved(merge: Merge, merges: tuple[Merge, ...]) -> bool:
    wholes = set(merge.merged)
    return any(
        m.number > merge.number and m.halving == merge.halving + 1 and wholes.issuperset(m.parts) for m in merges
    )


def _better_half(merge: Merge, board: Board) -> tuple[str, ...]:
    """None of it where it is a single part made from the union's own baseline: that was measured before the union."""
    half = merge.merged[: math.ceil(len(merge.merged) / 2)]
    return () if len(half) == 1 and board.of(half[0]).base_id == merge.base_id else half
