"""Unions of near-misses: several candidates that were each not clear enough, tried together on the current baseline.

Each is measured well and not promoted (shelved), none is in a baseline or in another union on trial. Such a union has
to win like any candidate; what it costs is bounded by its share of the slots. Contenders left by a promotion are
scheduler.policy.combine's.
"""

from __future__ import annotations

from scheduler.domain.candidate import CandidateState, Origin, Standing
from scheduler.domain.decision import Combine, Effect
from scheduler.domain.lab import Board
from scheduler.policy.combine import own_base
from scheduler.policy.effects import effect_of, trusted_chance
from scheduler.policy.noise import board_noise
from scheduler.policy.patches import Patches


def near_miss_union(board: Board, slots: int) -> Combine | None:
    """The union to try now, or None: fewer than two near-misses, their share of the slots taken, or tried before."""
    gates = board.gates
    shelf = board.in_state(CandidateState.SHELVED) if gates.combine else ()
    if len(shelf) < 2 or not board.baseline.scores or _unions_on_trial(board) >= unions_allowed(board, slots):
        return None
    parts = _choose(board, shelf)
    ids = tuple(standing.candidate_id for standing, _ in parts)
    if len(ids) < 2 or any(m.base_id == board.baseline_id and set(m.parts) == set(ids) for m in board.merges):
        return None
    predicted = sum(effect.shrunken for _, effect in parts)
    return Combine(board.baseline_id, ids, 0, predicted, f"{len(ids)} near-misses together, none in a baseline yet")


def unions_allowed(board: Board, slots: int) -> int:
    """How many unions may be on trial at a time: at least one."""
    return max(1, int(slots * board.gates.max_union_share))


def _unions_on_trial(board: Board) -> int:
    return sum(standing.origin is Origin.UNION for standing in board.undecided)


def _choose(board: Board, shelf: tuple[Standing, ...]) -> list[tuple[Standing, Effect]]:
    """The likeliest near-misses that share no patch with each other, a baseline, or a merge on trial."""
    noise, patches = board_noise(board), Patches(board)
    ports, taken = patches.ports(), set(patches.in_force() | patches.on_trial())
    chances = [(trusted_chance(s, own_base(s, board), noise), s) for s in shelf if s.scores]
    likely = [(chance, standing) for chance, standing in chances if chance >= board.gates.shelve_from]
    chosen: list[tuple[Standing, Effect]] = []
    for _, standing in sorted(likely, key=lambda pair: (-pair[0], len(pair[1].candidate_id), pair[1].candidate_id)):
        leaves = patches.leaves(standing.candidate_id)
        if not leaves & taken and all(ports[leaf] < board.gates.max_ports for leaf in leaves):
            chosen.append((standing, effect_of(standing, own_base(standing, board), noise)))
            taken |= leaves
        if len(chosen) == board.gates.max_parts:
            break
    return chosen
