"""What a candidate's patch is made of, through all merges, and how often it was carried to a newer baseline.

A patch is named by the candidate that brought it (a leaf): a union stands for the patches of its parts, and theirs.
Two candidates with a leaf in common are never merged: the change would be asked for twice. Reads a board, decides
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from scheduler.domain.lab import Board


class Patches:
    """The patches of one board, looked up by candidate."""

    def __init__(self, board: Board) -> None:
        self._merges = {merge.candidate_id: merge for merge in board.merges if merge.candidate_id}
        self._leaves: dict[str, frozenset[str]] = {}
        self._board = board

    def leaves(self, candidate_id: str) -> frozenset[str]:
        """Ids of the candidates whose own edits are in this one since its base."""
        if candidate_id not in self._leaves:
            merge = self._merges.get(candidate_id)
            parts = frozenset((candidate_id,)) if merge is None else self._of_all(merge.merged)
            self._leaves[candidate_id] = parts
        return self._leaves[candidate_id]

    def in_force(self) -> frozenset[str]:
        """Patches in the baseline's program: its own and those of the baselines it was made from.

        A former baseline that a late candidate of an older one displaced is not among them.
        """
        return self._of_all(self.lineage(self._board.baseline_id))

    def lineage(self, candidate_id: str) -> tuple[str, ...]:
        """The candidate, the baseline it was made from, that one's, and so on to the first."""
        lineage: list[str] = []
        ancestor: str | None = candidate_id
        while ancestor is not None and ancestor not in lineage:
            lineage.append(ancestor)
            ancestor = self._board.of(ancestor).base_id
        return tuple(lineage)

    def on_trial(self, base_id: str | None = None) -> frozenset[str]:
        """Patches inside merges that are not decided on yet; only merges onto `base_id` when it is given."""
        merged = (s for s in self._board.undecided if s.origin.merged and base_id in (None, s.base_id))
        return self._of_all(s.candidate_id for s in merged)

    def ports(self) -> Counter[str]:
        """How often each patch was merged onto a baseline, conflicts counted; halves of a failed union are not."""
        found: Counter[str] = Counter()
        for merge in self._board.merges:
            if not merge.halving:
                found.update(self._of_all(merge.parts))
        return found

    def _of_all(self, ids: Iterable[str]) -> frozenset[str]:
        return frozenset(leaf for one in ids for leaf in self.leaves(one))
