"""The rows of one evaluation and the numbers that come back: a probed evaluation, or plain rows to measure speed with.

Sums the scored rows, keeps what the probes compare, and serves one forward twice more when a model has moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.judge import probes
from harness.judge.evaluation import Slice
from harness.judge.evaluation_plan import CellKind, EvaluationPlan
from harness.judge.probes import SKETCH_IDS, Probes, Readings, Repeats
from harness.rows import padded_batches
from harness.scoring import NonFinite, Score, Tally, TokenBytes, checked_nll, tally

_LEAST_LIKELY = np.float32(100.0)  # nats, for the probes: spliced text may be ruled out, scored text may not


class ProbedServing:
    """Scores the validation rows of a plan and examines the rest; `probes` and `verdict` hold once it is finished."""

    def __init__(
        self, plan: EvaluationPlan, slice_rows: int, token_bytes: TokenBytes, random: np.random.Generator
    ) -> None:
        self._plan, self._slice_rows, self._token_bytes = plan, slice_rows, token_bytes
        self._width = plan.forward_rows
        self._readings = Readings(np.empty((len(plan.rows), plan.rows.shape[1] - 1), np.float32))
        vocab_size = len(token_bytes.true)
        self._sketch_ids = random.choice(vocab_size, min(SKETCH_IDS, vocab_size), replace=False)
        replays = np.concatenate([plan.cells(CellKind.CONTROL), plan.cells(CellKind.PERTURBED)])
        self._scored = plan.kind == CellKind.VAL
        self._kept = np.zeros(len(plan.rows), bool)  # cells that are compared with another
        self._kept[replays] = self._kept[plan.source[replays]] = True
        self._total = self._held_out = Tally()
        self._taken = 0
        self._repeats: list[NDArray[np.float32]] = []
        self.probes: Probes | None = None
        self.verdict = ("ok", "")

    @property
    def score(self) -> Score:
        """Of the validation rows alone."""
        return self._total.score()

    @property
    def holdout_bpb(self) -> float | None:
        """Bits per byte of the holdout rows before their splices; None without such rows."""
        return self._held_out.score().val_bpb if self._held_out.bytes > 0 < self._held_out.bytes_upstream else None

    def slices(self) -> Iterator[Slice]:
        for forward in range(self._plan.forwards):
            yield from self._forward(forward, last=forward == self._plan.forwards - 1)
        self.probes = probes.examine(self._plan, self._readings)
        if probes.needs_repeats(self.probes):
            for _ in range(2):
                yield from self._forward(self._forward_to_repeat(), last=True)

    def take(self, log_probabilities: list[NDArray[np.float32]]) -> None:
        nats = _nats(log_probabilities)
        if self.probes is not None:
            self._repeats.extend(nats)
            return
        cells = np.arange(self._taken, self._taken + len(nats))
        self._taken += len(nats)
        scored = self._scored[cells]
        targets = self._plan.rows[cells[scored], 1:]
        self._total += tally(checked_nll(nats[scored]), targets, self._token_bytes)
        self._readings.nats[cells] = np.minimum(nats, _LEAST_LIKELY)
        for cell in cells[~scored | self._kept[cells]].tolist():
            self._keep(cell, log_probabilities[cell - cells[0]])

    def finish(self) -> float:
        assert self.probes is not None
        self.verdict = probes.verdict_of(self.probes, self._repeated())
        return self.score.val_bpb if self.verdict[0] == "ok" else math.nan

    def _forward(self, forward: int, *, last: bool) -> Iterator[Slice]:
        begin, end = forward * self._width, (forward + 1) * self._width
        for first in range(begin, end, self._slice_rows):
            cells = range(first, min(first + self._slice_rows, end))
            fresh = self._plan.rows[begin:end, :-1] if first == begin else None
            yield Slice(fresh, [self._ids(cell) for cell in cells], last and cells.stop == end)

    def _ids(self, cell: int) -> NDArray[np.int64]:
        """The targets, and what else is wanted of a cell: the sketch, or the other continuation of each splice."""
        plan = self._plan
        targets = plan.rows[cell, 1:].astype(np.int64)
        if self._kept[cell]:
            compared = targets if self._scored[cell] else plan.rows[plan.source[cell], 1:]
            wide = np.broadcast_to(self._sketch_ids, (len(targets), len(self._sketch_ids)))
            return np.column_stack([targets, compared, wide])
        if (splices := plan.splices.get(cell)) is not None and len(splices):
            other = targets.copy()
            other[splices[:, 0] - 1] = splices[:, 1]
            return np.column_stack([targets, other])
        return targets[:, None]

    def _keep(self, cell: int, values: NDArray[np.float32]) -> None:
        """What the probes compare of a cell, besides the nats of its targets."""
        if self._kept[cell]:
            self._readings.sketches[cell] = values[:, 1:]
        if (splices := self._plan.splices.get(cell)) is not None:
            targets = self._plan.rows[cell, 1:]
            self._readings.others[cell] = values[splices[:, 0] - 1, -1]
            natural = int(splices[0, 0]) - 1 if len(splices) else len(targets)
            self._held_out += tally(self._readings.nats[cell, :natural], targets[:natural], self._token_bytes)

    def _forward_to_repeat(self) -> int:
        return probes.moved_row(self._plan, self._readings) // self._width

    def _repeated(self) -> Repeats | None:
        if not self._repeats:
            return None
        begin = self._forward_to_repeat() * self._width
        once, twice = np.stack(self._repeats[: self._width]), np.stack(self._repeats[self._width :])
        return Repeats(once - self._readings.nats[begin : begin + self._width], twice - once)


def _nats(log_probabilities: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """−log-probability of the targets of rows, [rows, T]. Raises NonFinite."""
    if any(np.isnan(values).any() for values in log_probabilities):
        raise NonFinite("the logits hold NaN")
    return -np.stack([values[:, 0] for values in log_probabilities])


class PlainServing:
    """Rows uint16 [n, T+1] in order, scored and not probed."""

    def __init__(self, rows: NDArray[np.uint16], forward_rows: int, slice_rows: int, token_bytes: TokenBytes) -> None:
        self._rows, self._forward_rows, self._slice_rows = rows, forward_rows, slice_rows
        self._token_bytes, self._total, self._taken = token_bytes, Tally(), 0

    @property
    def score(self) -> Score:
        return self._total.score()

    def slices(self) -> Iterator[Slice]:
        for batch in padded_batches(self._rows, self._forward_rows):
            for first in range(0, batch.valid, self._slice_rows):
                targets = batch.rows[first : min(first + self._slice_rows, batch.valid), 1:].astype(np.int64)
                yield Slice(batch.rows[:, :-1] if first == 0 else None, [row[:, None] for row in targets])

    def take(self, log_probabilities: list[NDArray[np.float32]]) -> None:
        for values in log_probabilities:
            self._total += tally(checked_nll(-values[:, 0]), self._rows[self._taken, 1:], self._token_bytes)
            self._taken += 1

    def finish(self) -> float:
        return self.score.val_bpb
