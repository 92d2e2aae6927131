"""Baselines that a late candidate displaced: its program was made from an older one and does not have their patches.

Each had won its place, so their patches go together onto the new baseline, once: measured anew, as everything merged.
Who is promoted is scheduler.policy.late's.
"""

from __future__ import annotations

from scheduler.domain.candidate import CandidateState, Standing
from scheduler.domain.decision import Combine, Noise
from scheduler.domain.lab import Board
from scheduler.policy.combine import own_base, predicted_effect
from scheduler.policy.effects import trusted_chance
from scheduler.policy.patches import Patches


def recover_displaced(board: Board, noise: Noise) -> Combine | None:
    """One union of the former baselines that the current one was not made from, in the order they build on each other.

    Not those that are in a merge onto this baseline already, that were carried `max_ports` times, or that look no
    better than their own baseline by now.
    """
    former = board.in_state(CandidateState.PROMOTED) if board.gates.combine else ()
    if not former:
        return None
    patches = Patches(board)
    lineage = patches.lineage(board.baseline_id)
    displaced = [standing for standing in former if standing.candidate_id not in lineage and standing.scores]
    if not displaced:
        return None
    barred = _barred(board, patches)
    parts = [
        standing
        for standing in sorted(displaced, key=lambda s: (len(patches.lineage(s.candidate_id)), s.candidate_id))
        if not patches.leaves(standing.candidate_id) & barred and _is_better(standing, board, noise)
    ]
    if not parts:
        return None
    predicted = sum(predicted_effect(standing, board, noise) for standing in parts)
    which = "a baseline was" if len(parts) == 1 else f"{len(parts)} baselines were"
    reason = f"{which} displaced by a candidate of an older one"
    return Combine(board.baseline_id, tuple(s.candidate_id for s in parts), 0, predicted, reason)


def _barred(board: Board, patches: Patches) -> frozenset[str]:
    """Patches the baseline has, or was tried with, or that were carried often enough."""
    tired = {leaf for leaf, ports in patches.ports().items() if ports >= board.gates.max_ports}
    tried = (part for merge in board.merges if merge.base_id == board.baseline_id for part in merge.parts)
    here = frozenset(leaf for part in tried for leaf in patches.leaves(part))
    return here | tired | patches.in_force() | patches.on_trial()


def _is_better(standing: Standing, board: Board, noise: Noise) -> bool:
    return trusted_chance(standing, own_base(standing, board), noise) >= board.gates.combine_from
