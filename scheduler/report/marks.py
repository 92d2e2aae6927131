"""The marks of progress.png: runs, means with errors, what has no score, the staircase. Names are report.names'.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), and every kind has its own marker, so that nothing is
said by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.report.scale import Scale
from scheduler.views.history import CandidatePoint, History, Step

INK, GREEN, GREY, ORANGE, RED = "#222222", "#009E73", "#8c8c8c", "#E69F00", "#D55E00"
BLUE, SKY, PURPLE = "#0072B2", "#56B4E9", "#CC79A7"
CROWDED_RUNS = 150  # from which on markers shrink
FEW_EDGES = 8  # scores above the picture up to which each is written out
AT_TOP, OFF_SCALE = 0.982, 0.93  # height of what has no score, and of scores too high, as a share of the axes


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of candidate is drawn. `size` is relative to the plot's."""

    label: str
    states: tuple[str, ...]
    color: str
    marker: str
    size: float
    zorder: int


KEPT = Kind("promoted: mean ± error", ("baseline", "promoted"), GREEN, "o", 1.4, 5)
SHELVED = Kind("near-miss or merged", ("shelved",), SKY, "v", 1.1, 4)
DISCARDED = Kind("discarded", ("discarded",), GREY, "s", 0.9, 4)
UNDECIDED = Kind("undecided", ("open", "contender", "cancelled"), ORANGE, "D", 1.0, 4)


def draw_marks(axes: Any, history: History, scale: Scale) -> None:
    """Everything that stands for data, and the limits it is drawn in."""
    size = 4.0 if len(history.runs) > CROWDED_RUNS else 7.0
    axes.set_xlim(0.2, 1.02 * scale.last_run + 0.8)
    axes.set_ylim(scale.low, scale.high)
    _staircase(axes, history.baselines, scale)
    _single_runs(axes, history, scale, size)
    for kind in (KEPT, SHELVED, DISCARDED, UNDECIDED):
        _means(axes, history, kind, scale, size)
    _merged(axes, history, scale, size)
    _off_scale(axes, history, scale, size)
    _without_score(axes, history, size)


def _staircase(axes: Any, steps: Sequence[Step], scale: Scale) -> None:
    if not steps:
        return
    ends = [*(step.number for step in steps[1:]), scale.last_run + 1]
    x = [edge for step, end in zip(steps, ends, strict=True) for edge in (step.number, end)]
    y = [step.val_bpb for step in steps for _ in range(2)]
    error = [step.val_bpb_se for step in steps for _ in range(2)]
    axes.plot(x, y, color=GREEN, linewidth=2.2, zorder=2, label="baseline")
    low, high = ([v + sign * e for v, e in zip(y, error, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=GREEN, alpha=0.13, linewidth=0, zorder=1)


def _single_runs(axes: Any, history: History, scale: Scale, size: float) -> None:
    shown = [point for point in history.runs if point.val_bpb is not None and point.val_bpb <= scale.high]
    single = [point for point in shown if not point.claim]
    fresh = [point for point in shown if point.claim]
    if single:
        x, y = [point.number for point in single], [point.val_bpb for point in single]
        axes.plot(x, y, ".", color=INK, alpha=0.4, markersize=size - 1, zorder=8, label="one run")
    if fresh:
        x, y = [point.number for point in fresh], [point.val_bpb for point in fresh]
        axes.plot(x, y, "*", color=BLUE, markersize=1.3 * size, zorder=8, label="fresh run of the claim")


def _merged(axes: Any, history: History, scale: Scale, size: float) -> None:
    """A ring around unions and ports, whatever became of them."""
    rings = [(p.number, p.val_bpb) for p in history.candidates if p.merged and fits(p, scale)]
    if rings:
        x, y = zip(*rings, strict=True)
        style = {"markersize": 2.2 * size, "markerfacecolor": "none", "markeredgecolor": PURPLE, "markeredgewidth": 1.5}
        axes.plot(x, y, "h", **style, zorder=6, label="union or port")


def _means(axes: Any, history: History, kind: Kind, scale: Scale, size: float) -> None:
    points = [p for p in history.candidates if p.status in kind.states and p.val_bpb is not None]
    inside = [(p.number, p.val_bpb, p.val_bpb_se or 0.0) for p in points if fits(p, scale)]
    if not inside:
        return
    x, y, error = zip(*inside, strict=True)
    edge = INK if kind is KEPT else kind.color
    style = {"color": kind.color, "markersize": kind.size * size, "markeredgecolor": edge, "zorder": kind.zorder}
    if kind is DISCARDED and len(history.runs) > CROWDED_RUNS:  # hundreds of errors would hide what they are about
        axes.plot(x, y, kind.marker, **style, alpha=0.6, label=kind.label)
        return
    axes.errorbar(x, y, error, fmt=kind.marker, **style, elinewidth=1.2, capsize=2.5, label=kind.label)


def _off_scale(axes: Any, history: History, scale: Scale, size: float) -> None:
    """Scores too high for the picture: an arrow at the top, with the value while they are few."""
    high = [p for p in history.candidates if p.val_bpb is not None and not fits(p, scale)]
    top = axes.get_xaxis_transform()
    if high:
        numbers = [point.number for point in high]
        axes.plot(numbers, [OFF_SCALE] * len(high), "^", color=GREY, markersize=size, transform=top, zorder=6)
    for point in high if len(high) <= FEW_EDGES else ():
        place = {"xycoords": top, "xytext": (0, -8), "textcoords": "offset points", "ha": "center", "va": "top"}
        axes.annotate(f"{point.val_bpb:.2f}", (point.number, OFF_SCALE), **place, fontsize=8, color=INK)


def _without_score(axes: Any, history: History, size: float) -> None:
    failed = [point.number for point in history.runs if point.val_bpb is None]
    if failed:
        style = {"color": RED, "markersize": size, "markeredgewidth": 2, "label": "no score (crash, timeout, …)"}
        axes.plot(failed, [AT_TOP] * len(failed), "x", transform=axes.get_xaxis_transform(), zorder=6, **style)


def fits(point: CandidatePoint, scale: Scale) -> bool:
    return point.val_bpb is not None and point.val_bpb <= scale.high
