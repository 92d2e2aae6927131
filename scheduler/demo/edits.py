"""The demo's ideas: edits of the constants of train.py for the `cpu` contract, some good, some bad, one that crashes.

Values in, text out. What becomes of them is measured by the demo, not promised here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.policy.constants import read_constants, rewrite_constants

SECOND_ROUND = 2  # ideas tried again on top of what was promoted


@dataclass(frozen=True, slots=True)
class Edit:
    """One idea: constants by name and the values they get."""

    name: str
    title: str
    values: Mapping[str, int | float]

    def apply(self, source: str) -> str:
        """The edited train.py. Raises CandidateRejected for a train.py without these constants."""
        return rewrite_constants(source, self.values)

    def changes(self, source: str) -> bool:
        constants = read_constants(source)
        return any(constants.get(name) != value for name, value in self.values.items())


EDITS = (
    Edit("matrix-lr-0.4", "ten times the learning rate of the matrices", {"MATRIX_LR": 0.4}),
    Edit("heads-of-33", "heads of 33 dimensions, which rotary embedding cannot split", {"HEAD_DIM": 33}),
    Edit("batch-of-32", "twice the batch: fewer, better steps", {"DEVICE_BATCH_SIZE": 32, "TOTAL_BATCH_SIZE": 4096}),
    Edit("no-softcap", "no soft cap on the logits: cheaper steps", {"SOFTCAP": 0.0}),
    Edit("depth-2", "two layers of the same width: cheaper steps", {"DEPTH": 2, "ASPECT_RATIO": 32}),
    Edit("unembedding-lr-0.008", "twice the learning rate of the output layer", {"UNEMBEDDING_LR": 0.008}),
    Edit("depth-1", "one layer of the same width: the cheapest steps", {"DEPTH": 1, "ASPECT_RATIO": 64}),
)


def second_round(source: str, base_name: str) -> tuple[Edit, ...]:
    """Ideas worth trying again on a new baseline: the gentle ones that are not part of it yet."""
    gentle = [edit for edit in EDITS if edit.name in ("no-softcap", "unembedding-lr-0.008", "depth-1")]
    chosen = [edit for edit in gentle if edit.changes(source)][:SECOND_ROUND]
    return tuple(
        Edit(f"{edit.name}-on-{base_name}"[:60], f"{edit.title}, on {base_name}", edit.values) for edit in chosen
    )
