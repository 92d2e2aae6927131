"""Which rows an evaluation serves, and where: every validation row once, and at most a tenth more that probe the model.

Forwards times slots, filled in an order that is drawn for the run, so that no row shows by its place what it is for.
What comes back is judged in harness.judge.probes; the dialogue is harness.judge.evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from random import Random

import numpy as np
from numpy.typing import NDArray

_LEAST_FORWARDS = 16  # no forward sees more of the rows than this part,
_FREE_ROWS = 16  # but as many as these where rows are few
_LEAST_EXTRA_ROWS = 12
_MOST_REPLAYS = (64, 128, 64)  # controls, perturbed and shifted rows: what each keeps for comparison grows with T
_SHARES = (0.1, 0.2, 0.12)  # of the extra rows; the rest are holdout rows
_BORDERS = (16, 32, 64, 128, 256)  # lengths of blocks that chunked models use
_FIRST_CUT = 4
_SPLICE_TOKENS = 4, 16  # between two splices: a thirty-second of the row, within these bounds
_DRAWS = 8  # for a donor with enough text, and for a pair of them that differ
_FEWEST_MATCHES = 4


class CellKind(IntEnum):
    """What a cell of the plan is for."""

    VAL = 0  # scored
    CONTROL = 1  # an earlier cell's row again, in the same slot of another forward
    PERTURBED = 2  # the same with other text from `moved` on
    SHIFTED = 3  # an earlier cell's row, begun `moved` tokens later
    HOLDOUT = 4  # never shown before or after; spliced in its second half


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """Cell i is slot i % forward_rows of forward i // forward_rows.

    rows uint16 [cells, T+1]; kind int8 [cells]; source int64 [cells]: the number of a validation row, the cell that a
    replay repeats, or -1; moved int64 [cells]: first changed token, or the shift; splices: for a holdout cell int64
    [n, 2], the token where each splice begins and the token that might as well have stood there.
    """

    rows: NDArray[np.uint16]
    kind: NDArray[np.int8]
    source: NDArray[np.int64]
    moved: NDArray[np.int64]
    splices: dict[int, NDArray[np.int64]]
    forward_rows: int

    @property
    def forwards(self) -> int:
        return len(self.rows) // self.forward_rows

    def cells(self, kind: CellKind) -> NDArray[np.int64]:
        """Numbers of the cells of one kind, in the order they are served."""
        return np.flatnonzero(self.kind == kind)


def forward_rows_of(batch_size: int, val_rows: int) -> int:
    """Rows of a forward: what the candidate asks for, but never a large part of all rows."""
    return min(batch_size, max(_FREE_ROWS, val_rows // _LEAST_FORWARDS), val_rows)


def plan_evaluation(
    val: NDArray[np.uint16], holdout: NDArray[np.uint16], forward_rows: int, random: np.random.Generator
) -> EvaluationPlan:
    """Plan one evaluation of val and holdout rows uint16 [n, T+1]."""
    return _Planner(val, holdout, forward_rows, random).plan()


class _Planner:
    def __init__(
        self, val: NDArray[np.uint16], holdout: NDArray[np.uint16], forward_rows: int, random: np.random.Generator
    ) -> None:
        self._val, self._holdout, self._random, self._width = val, holdout, random, forward_rows
        extra = max(_LEAST_EXTRA_ROWS, len(val) // 10)
        self._forwards = max((len(val) + extra) // forward_rows, -(-(len(val) + _LEAST_EXTRA_ROWS) // forward_rows))
        cells = self._forwards * forward_rows
        self._kind = np.full(cells, -1, np.int8)
        self._source = np.full(cells, -1, np.int64)
        self._moved = np.zeros(cells, np.int64)
        self._rows = np.empty((cells, val.shape[1]), np.uint16)
        self._donors = _Donors(holdout, random)

    def plan(self) -> EvaluationPlan:
        self._assign()
        for cell in np.flatnonzero((self._kind != CellKind.VAL) & (self._kind != CellKind.HOLDOUT)):
            self._rows[cell] = self._replayed(int(cell))
        splices = {int(cell): self._spliced(int(cell)) for cell in np.flatnonzero(self._kind == CellKind.HOLDOUT)}
        return EvaluationPlan(self._rows, self._kind, self._source, self._moved, splices, self._width)

    def _assign(self) -> None:
        """Give every cell its kind and its source, and validation rows to the cells that are left."""
        extra = len(self._kind) - len(self._val)
        most = len(self._val) // 4  # each replay repeats a row of its own
        counts = [
            min(most, limit, max(2, int(share * extra))) for share, limit in zip(_SHARES, _MOST_REPLAYS, strict=True)
        ]
        for kind, count in zip((CellKind.CONTROL, CellKind.PERTURBED, CellKind.SHIFTED), counts, strict=True):
            for _ in range(count):
                self._assign_replay(kind)
        free = np.flatnonzero(self._kind == -1)
        spare = len(free) - (len(self._val) - int((self._kind == CellKind.VAL).sum()))
        self._kind[free] = CellKind.VAL
        self._kind[self._random.choice(free, max(0, spare), replace=False)] = CellKind.HOLDOUT
        cells = np.flatnonzero(self._kind == CellKind.VAL)
        self._source[cells] = self._random.permutation(len(self._val))
        self._rows[cells] = self._val[self._source[cells]]

    def _assign_replay(self, kind: CellKind) -> None:
        """A free cell for a replay, and one before it for the row that it repeats; a shifted row changes its slot."""
        free = self._kind.reshape(self._forwards, self._width) == -1
        for slot in self._random.permutation(self._width):
            open_forwards = np.flatnonzero(free[:, slot])
            if len(open_forwards) < 2:
                continue
            first, second = np.sort(self._random.choice(open_forwards, 2, replace=False))
            place = slot
            if kind is CellKind.SHIFTED:
                place = self._random.choice(np.flatnonzero(free[second]))
            source, replay = first * self._width + slot, second * self._width + place
            self._kind[source], self._kind[replay], self._source[replay] = CellKind.VAL, kind, source
            return

    def _replayed(self, cell: int) -> NDArray[np.uint16]:
        row: NDArray[np.uint16] = self._rows[self._source[cell]].copy()
        tokens = len(row) - 1
        if self._kind[cell] == CellKind.PERTURBED:
            self._moved[cell] = cut = self._cut(tokens)
            other = self._donors.row()
            row[cut:] = other[cut:]
            if row[cut] == self._rows[self._source[cell], cut]:  # a change that is none shows nothing
                row[cut] = self._donors.other_token(int(row[cut]))
        elif self._kind[cell] == CellKind.SHIFTED:
            self._moved[cell] = shift = int(self._random.integers(max(1, tokens // 16), max(2, tokens // 4)))
            row[:-shift], row[-shift:] = row[shift:].copy(), self._donors.row()[:shift]
        return row

    def _cut(self, tokens: int) -> int:
        """Anywhere, or every second time at the border of a block or one token off it."""
        borders = [border for border in _BORDERS if border < tokens - 1]
        if borders and self._random.random() < 0.5:
            border = int(self._random.choice(borders))
            border *= int(self._random.integers(1, (tokens - 2) // border + 1))
            return border + int(self._random.integers(-1, 2))
        return int(self._random.integers(min(_FIRST_CUT, tokens - 1), tokens))

    def _spliced(self, cell: int) -> NDArray[np.int64]:
        """Fill a holdout cell; its second half jumps, time and again, to one of two places that fit equally well."""
        row = self._donors.fresh_row().copy()
        tokens = len(row) - 1
        step = int(np.clip(tokens // 32, *_SPLICE_TOKENS))
        splices = []
        for at in range(max(2, tokens // 2), tokens, step):
            length = min(step, len(row) - at)
            if (pair := self._donors.pair(row, at, length)) is not None:
                shown, other = pair
                row[at : at + length] = shown
                splices.append((at, int(other[0])))
        self._rows[cell] = row
        return np.array(splices, np.int64).reshape(-1, 2)


class _Donors:
    """Text from the holdout to put into rows; `random` decides."""

    def __init__(self, holdout: NDArray[np.uint16], random: np.random.Generator) -> None:
        self._holdout, self._random = holdout, random
        self._unused = list(random.permutation(len(holdout)))
        self._width = holdout.shape[1]
        pairs = (holdout[:, :-1].astype(np.int64) << 16 | holdout[:, 1:]).reshape(-1)
        self._order = np.argsort(pairs)
        self._sorted = pairs[self._order]
        self._chance = Random(int(random.integers(1 << 62)))  # for single numbers, which numpy draws slowly

    def row(self) -> NDArray[np.uint16]:
        return self._holdout[self._random.integers(len(self._holdout))]  # type: ignore[no-any-return]

    def fresh_row(self) -> NDArray[np.uint16]:
        """One that this evaluation has not begun a row with, as long as there is one."""
        return self._holdout[self._unused.pop()] if self._unused else self.row()

    def other_token(self, token: int) -> int:
        tokens = self.row()
        different = tokens[tokens != token]
        return int(self._random.choice(different)) if len(different) else token ^ 1

    def pair(
        self, row: NDArray[np.uint16], at: int, length: int
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]] | None:
        """Two texts of `length` tokens that followed the row's last two tokens somewhere, or any two; None if equal.

        They are drawn alike, so which of them is shown says nothing: that is what makes the test of decoys exact.
        """
        wanted = int(row[at - 2]) << 16 | int(row[at - 1])
        begin, end = (int(place) for place in np.searchsorted(self._sorted, [wanted, wanted + 1]))
        for _ in range(_DRAWS):
            first, second = (self._text(begin, end, length) for _ in range(2))
            if first[0] != second[0]:
                return first, second
        return None

    def _text(self, begin: int, end: int, length: int) -> NDArray[np.uint16]:
        """Tokens behind one of the places `begin` to `end` in the order of pairs, or behind any where none will do."""
        if end - begin >= _FEWEST_MATCHES:
            for _ in range(_DRAWS):
                number, pair = divmod(int(self._order[self._chance.randrange(begin, end)]), self._width - 1)
                if pair + 2 + length <= self._width:
                    return self._holdout[number, pair + 2 : pair + 2 + length]
        number, start = self._chance.randrange(len(self._holdout)), self._chance.randrange(self._width - length + 1)
        return self._holdout[number, start : start + length]
