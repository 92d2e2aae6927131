"""Every candidate as proposers see it. Sources are read from the ledger once; scores follow the board."""

from __future__ import annotations

from scheduler.domain.candidate import Standing
from scheduler.domain.lab import Board
from scheduler.domain.proposal import Trial
from scheduler.workspace import Workspace


class Trials:
    """Remembers what it read: a candidate's source and author never change."""

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._made: dict[str, tuple[Standing, Trial]] = {}

    def of(self, board: Board) -> tuple[Trial, ...]:
        """One for every candidate on the board, oldest first."""
        return tuple(self._trial(standing) for standing in board.standings)

    def _trial(self, standing: Standing) -> Trial:
        known = self._made.get(standing.candidate_id)
        if known is not None and known[0] == standing:
            return known[1]
        source, proposer = (known[1].train_py, known[1].proposer) if known else self._read(standing.candidate_id)
        trial = Trial(
            candidate_id=standing.candidate_id,
            base_id=standing.base_id,
            train_py=source,
            val_bpb=standing.mean if standing.n else None,
            pending=bool(standing.pending_runs),
            proposer=proposer,
            failure=standing.failure,
        )
        self._made[standing.candidate_id] = (standing, trial)
        return trial

    def _read(self, candidate_id: str) -> tuple[bytes, str]:
        candidates = self._space.ledger.candidates
        return candidates.train_py(candidate_id), candidates.get(candidate_id, self._space.tag).proposer
