"""What the extra rows of an evaluation say of a model: does it see the future, other rows, or what it was shown before?

Pure statistics over one plan and what came back, and the verdict they give. A frozen model that computes each row from
its own prefix moves nothing, and is as surprised by one splice as by the other. False-alarm rates are those of a
standard normal variable beyond the threshold, except where a constant says otherwise; tests simulate them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.judge.evaluation_plan import CellKind, EvaluationPlan

SKETCH_IDS = 16  # random token ids whose log-probabilities are kept of rows that are compared, besides the targets
# A row computed again under the same shape comes out equal on a CPU, and within rounding on a GPU: both must be passed.
MOVED, MOVED_MEAN = 0.02, 0.002  # log-probability, nats: the largest change, and the mean over a row
NOISE_FACTOR = 10.0  # what follows the replaced text may move a prefix this many times as far as nothing does
COUPLED, COUPLED_NATS = 0.1, 0.002  # below both, a prefix that moves is rounding that depends on the row: noted only
DECOY_Z = 4.5  # 3 tests, one-sided: 1e-5 a run
SHIFTED_NATS, SHIFTED_Z = 0.1, 5.0
TREND_Z = 5.0  # one-sided: 3e-7 a run
FALL_T = 5.0  # only asked of models that moved: 2 × 8e-5 with sixteen rows
GAP_NATS, GAP_Z = 0.05, 5.0
GAP_CLUSTERS = 1.5  # rows of one document are alike: what that adds to the error of a mean over rows
_FEWEST = 24  # rows or splices that a normal approximation needs
_FLOOR = -30.0  # a log-probability below it is as good as none


@dataclass(slots=True)
class Readings:
    """What came back for the cells of a plan.

    nats float32 [cells, T] of the targets; sketches: for a compared cell float32 [T, E] log-probabilities; others: for
    a holdout cell float32 [splices] log-probabilities of the token that might as well have stood there.
    """

    nats: NDArray[np.float32]
    sketches: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    others: dict[int, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probes:
    """The numbers of one evaluation; nan where there were too few rows. All are shown in result.json.

    *_max and *_mean: change of a log-probability, nats; *_z: standard normal for an honest model.
    """

    control_max: float = math.nan
    control_mean: float = math.nan
    perturbed_max: float = math.nan
    perturbed_nats: float = math.nan
    decoy_sign_z: float = math.nan
    decoy_sum_z: float = math.nan
    decoy_tail_z: float = math.nan
    decoys: int = 0
    shifted_nats: float = math.nan
    shifted_z: float = math.nan
    trend_z: float = math.nan
    holdout_gap_nats: float = math.nan
    holdout_gap_z: float = math.nan

    @property
    def controls_moved(self) -> bool:
        return self.control_max > MOVED and self.control_mean > MOVED_MEAN


@dataclass(frozen=True, slots=True)
class Repeats:
    """One forward served twice more, exactly: changes of the targets' nats [rows, T] against the time before."""

    first: NDArray[np.float32]
    second: NDArray[np.float32]


def examine(plan: EvaluationPlan, readings: Readings) -> Probes:
    """All numbers of one evaluation."""
    numbers = control_movement(plan, readings) | perturbed_movement(plan, readings) | decoy_test(plan, readings)
    numbers |= shifted_test(plan, readings) | trend_test(plan, readings) | holdout_test(plan, readings)
    return Probes(**numbers)  # type: ignore[arg-type]


def needs_repeats(probes: Probes) -> bool:
    """Whether the name of the fault depends on a forward served again."""
    return probes.controls_moved and not _decoys_fail(probes)


def verdict_of(probes: Probes, repeats: Repeats | None) -> tuple[str, str]:
    """Status and reason, ("ok", "") for a model that passes. The first that applies names the fault."""
    if _decoys_fail(probes):
        return "invalid: non-causal", (
            f"of two continuations that fit alike, the one that is shown next is the likelier one to the model "
            f"({probes.decoys} tries, z {max(probes.decoy_sign_z, probes.decoy_sum_z, probes.decoy_tail_z):.1f}): "
            "it sees tokens that come later"
        )
    if probes.controls_moved:
        return _diagnosis(probes, repeats)
    tolerance = max(MOVED, NOISE_FACTOR * probes.control_max if probes.control_max == probes.control_max else 0.0)
    if probes.perturbed_max > tolerance and (probes.perturbed_max > COUPLED or probes.perturbed_nats > COUPLED_NATS):
        return "invalid: non-causal", (
            f"text replaced later in a row moves log-probabilities before it by up to {probes.perturbed_max:.3g} nats"
        )
    if probes.shifted_nats > SHIFTED_NATS and probes.shifted_z > SHIFTED_Z:
        return "invalid: stateful-eval", (
            f"text seen once is predicted {probes.shifted_nats:.2f} nats a token better when it comes again at another "
            "place: rows are remembered"
        )
    if probes.trend_z < -TREND_Z:
        return "invalid: stateful-eval", (
            f"the loss falls over an evaluation in random order (z {probes.trend_z:.1f}): the model learns"
        )
    if probes.holdout_gap_nats > GAP_NATS and probes.holdout_gap_z > GAP_Z:
        return "suspect: holdout-gap", (
            f"the validation rows are predicted {probes.holdout_gap_nats:.2f} nats a token better than rows held out "
            f"(z {probes.holdout_gap_z:.1f})"
        )
    return "ok", ""


def shown(probes: Probes) -> dict[str, float | int | None]:
    """For result.json; numbers that could not be found out are null."""
    values = dataclasses.asdict(probes)
    return {name: None if value != value else round(value, 6) for name, value in values.items()}


def _decoys_fail(probes: Probes) -> bool:
    return max(probes.decoy_sign_z, probes.decoy_sum_z, probes.decoy_tail_z) > DECOY_Z


def _diagnosis(probes: Probes, repeats: Repeats | None) -> tuple[str, str]:
    """Why the same row came out otherwise next to other rows, later in the evaluation."""
    moved = f"the same row's log-probabilities moved by up to {probes.control_max:.3g} nats"
    changed = [] if repeats is None else [_moved(repeats.first), _moved(repeats.second)]
    if repeats is None or not any(changed):
        return "invalid: batch-coupled", f"{moved} with the rows next to it"
    falls = min(_t(repeats.first), _t(repeats.second)) < -FALL_T or probes.trend_z < -TREND_Z
    if falls or not all(changed):
        return "invalid: stateful-eval", f"{moved} from one forward to a later one"
    return (
        "suspect: nondeterministic",
        f"{moved} at random, as with dropout left on: the probes cannot see through that",
    )


def _moved(change: NDArray[np.float32]) -> bool:
    return float(np.abs(change).max()) > MOVED and float(np.abs(change).mean(axis=1).max()) > MOVED_MEAN


def _t(change: NDArray[np.float32]) -> float:
    """Of the mean change, over rows, or over tokens of few rows: Student's t for noise that is drawn anew each time."""
    each = change.mean(axis=1, dtype=np.float64) if len(change) >= 8 else change.astype(np.float64).reshape(-1)
    return float(each.mean() / max(each.std(ddof=1), 1e-30) * math.sqrt(len(each))) if len(each) > 1 else 0.0


def control_movement(plan: EvaluationPlan, readings: Readings) -> dict[str, float]:
    """How far rows moved that were served again with nothing changed but their neighbours."""
    changes = _control_changes(plan, readings)
    if not changes:
        return {}
    return {
        "control_max": max(float(change.max()) for change in changes),
        "control_mean": max(float(change.mean()) for change in changes),
    }


def moved_row(plan: EvaluationPlan, readings: Readings) -> int:
    """The cell of the row that moved most when it was served again: others may have moved before it, or not yet."""
    means = [float(change.mean()) for change in _control_changes(plan, readings)]
    return int(plan.source[plan.cells(CellKind.CONTROL)[int(np.argmax(means))]])


def _control_changes(plan: EvaluationPlan, readings: Readings) -> list[NDArray[np.float32]]:
    """Of each control row's sketch, in nats, against the time before."""
    pairs = [(readings.sketches[plan.source[cell]], readings.sketches[cell]) for cell in plan.cells(CellKind.CONTROL)]
    return [np.abs(np.maximum(again, _FLOOR) - np.maximum(first, _FLOOR)) for first, again in pairs]


def perturbed_movement(plan: EvaluationPlan, readings: Readings) -> dict[str, float]:
    """How far prefixes moved when the text after them was replaced: every position of the prefix, the last included."""
    largest, nats = math.nan, math.nan
    for cell in plan.cells(CellKind.PERTURBED):
        cut, source = int(plan.moved[cell]), int(plan.source[cell])
        first, again = (np.maximum(readings.sketches[number][:cut], _FLOOR) for number in (source, cell))
        change = np.abs(again - first)
        largest, nats = np.fmax(largest, change.max()), np.fmax(nats, change[:, 0].mean())
    return {"perturbed_max": float(largest), "perturbed_nats": float(nats)}


def decoy_test(plan: EvaluationPlan, readings: Readings) -> dict[str, float]:
    """log p(token that follows) − log p(token that might have followed), where a coin decided which of them follows.

    Exactly symmetric about 0 for every model that sees the prefix alone, whatever its numerics.
    """
    gains = []
    for cell, splices in plan.splices.items():
        shown_tokens = -readings.nats[cell, splices[:, 0] - 1]
        gains.append(np.maximum(shown_tokens, _FLOOR) - np.maximum(readings.others[cell], _FLOOR))
    d = np.concatenate(gains).astype(np.float64) if gains else np.empty(0)
    d = d[d != 0]
    if len(d) < _FEWEST:
        return {"decoys": len(d)}
    tail = np.sign(d[np.abs(d) >= np.quantile(np.abs(d), 0.75)])
    return {
        "decoy_sign_z": float(np.sign(d).sum() / math.sqrt(len(d))),
        "decoy_sum_z": float(d.sum() / math.sqrt((d**2).sum())),
        "decoy_tail_z": float(tail.sum() / math.sqrt(len(tail))),
        "decoys": len(d),
    }


def shifted_test(plan: EvaluationPlan, readings: Readings) -> dict[str, float]:
    """Nats that text lost on its second showing, some tokens further left in its row.

    A frozen model sees less of what came before, so it loses nothing. What a position is worth in general is taken out
    of both first, or models that are weak towards the end of a row would seem to remember.
    """
    tokens = readings.nats.shape[1]
    profile = readings.nats[plan.cells(CellKind.VAL)].mean(axis=0, dtype=np.float64)
    gains = []
    for cell in plan.cells(CellKind.SHIFTED):
        shift, source = int(plan.moved[cell]), int(plan.source[cell])
        settled = min(8, (tokens - shift) // 2)  # the first tokens lack their context
        before = readings.nats[source, shift + settled :] - profile[shift + settled :]
        after = readings.nats[cell, settled : tokens - shift] - profile[settled : tokens - shift]
        gains.append(before - after)
    if not gains:
        return {}
    every = np.concatenate(gains)
    z = every.mean() / max(every.std(), 1e-12) * math.sqrt(len(every)) if len(every) > 1 else math.nan
    return {"shifted_nats": float(np.mean([gain.mean() for gain in gains])), "shifted_z": float(z)}


def trend_test(plan: EvaluationPlan, readings: Readings) -> dict[str, float]:
    """Correlation of a row's loss with the time it was served, times √n. Served in random order, there is none.

    What the row's tokens are worth by their frequency alone is taken out, which halves the noise.
    """
    cells = plan.cells(CellKind.VAL)
    if len(cells) < _FEWEST or plan.forwards < 4:
        return {}
    left = _unexplained(plan, readings, cells)
    when = (cells // plan.forward_rows).astype(np.float64)
    when -= when.mean()
    scale = math.sqrt(float((left**2).sum() * (when**2).sum()))
    return {"trend_z": float((left * when).sum() / max(scale, 1e-30) * math.sqrt(len(cells)))}


def _unexplained(plan: EvaluationPlan, readings: Readings, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean nats of rows, less what their token frequencies explain, mean 0."""
    y, x = _loss_and_rarity(plan, readings, cells, readings.nats.shape[1])
    x, y = x - x.mean(), y - y.mean()
    explained: NDArray[np.float64] = y - x * ((x * y).sum() / max(float((x**2).sum()), 1e-30))
    return explained


def _loss_and_rarity(
    plan: EvaluationPlan, readings: Readings, cells: NDArray[np.int64], positions: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per row over its first positions: mean nats, and mean −log of the tokens' frequency in all rows served."""
    frequent = np.bincount(plan.rows.reshape(-1), minlength=1 << 16) + 1.0
    rarity = np.log(frequent.sum() / frequent)
    per_row = [rarity[row].mean() for row in plan.rows[cells, 1 : positions + 1]]  # at once they would be gigabytes
    return readings.nats[cells, :positions].mean(axis=1, dtype=np.float64), np.array(per_row)


def holdout_test(plan: EvaluationPlan, readings: Readings) -> dict[str, float]:
    """How much worse rows held out are predicted than validation rows, at the same positions: before any splice."""
    half = max(2, readings.nats.shape[1] // 2) - 1  # the token at T//2 is the first that may be spliced
    held, val = plan.cells(CellKind.HOLDOUT), plan.cells(CellKind.VAL)
    if len(held) < 4 or len(val) < _FEWEST or half < 1:
        return {}
    (y, x), (held_y, held_x) = (_loss_and_rarity(plan, readings, cells, half) for cells in (val, held))
    slope = np.cov(x, y)[0, 1] / max(float(x.var(ddof=1)), 1e-30)
    left, held_left = y - slope * x, held_y - slope * held_x
    error = GAP_CLUSTERS * math.sqrt(held_left.var(ddof=1) / len(held) + left.var(ddof=1) / len(val))
    gap = float(held_left.mean() - left.mean())
    return {"holdout_gap_nats": gap, "holdout_gap_z": gap / max(error, 1e-12)}
