"""The marks of progress.png: runs, means with errors, what has no score, the staircase, names.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), and every kind has its own marker, so that nothing is
said by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.app.report.scale import Scale, is_crowded, named_steps
from scheduler.app.views.history import CandidatePoint, History, Step

INK, GREEN, GREY, ORANGE, RED = "#222222", "#009E73", "#8c8c8c", "#E69F00", "#D55E00"
BLUE, SKY, PURPLE = "#0072B2", "#56B4E9", "#CC79A7"
CROWDED_RUNS = 150  # from which on markers shrink
FEW = 24  # candidates up to which every one is named
FEW_EDGES = 8  # scores above the picture up to which each is written out
NAME_CHARACTERS = 26
ROOM_LEFT = 0.3  # of the width, that a name left of its step needs
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
SHELVED = Kind("near-miss", ("shelved",), SKY, "v", 1.1, 4)
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
    _name_baselines(axes, history, scale)
    if len(history.candidates) <= FEW:
        _name_others(axes, history, scale)


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
    rings = [(p.number, p.val_bpb) for p in history.candidates if p.merged and _fits(p, scale)]
    if rings:
        x, y = zip(*rings, strict=True)
        style = {"markersize": 2.2 * size, "markerfacecolor": "none", "markeredgecolor": PURPLE, "markeredgewidth": 1.5}
        axes.plot(x, y, "h", **style, zorder=6, label="union or port")


def _means(axes: Any, history: History, kind: Kind, scale: Scale, size: float) -> None:
    points = [p for p in history.candidates if p.status in kind.states and p.val_bpb is not None]
    inside = [(p.number, p.val_bpb, p.val_bpb_se or 0.0) for p in points if _fits(p, scale)]
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
    high = [p for p in history.candidates if p.val_bpb is not None and not _fits(p, scale)]
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


def _name_baselines(axes: Any, history: History, scale: Scale) -> None:
    """Names below and left of each step, where nothing has ever been measured; slanted where they are many."""
    slanted = is_crowded(history)
    style = {"fontsize": 8.5, "rotation": 45} if slanted else {"fontsize": 11, "weight": "bold"}
    for step in named_steps(history, scale.last_run):
        text = "first baseline" if step == history.baselines[0] else _short(step.name)
        right = not slanted and step.number < ROOM_LEFT * scale.last_run
        axes.annotate(
            text if slanted else f"{text}  {step.val_bpb:.4f}",
            (step.number, step.val_bpb),
            xytext=(10, -18) if right else (-3, -5) if slanted else (-9, -5),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top",
            **style,
            color=INK,
            zorder=7,
            path_effects=halo(),
            parse_math=False,
        )


def _name_others(axes: Any, history: History, scale: Scale) -> None:
    """Names right of each marker, or left of it near the right edge."""
    for point in (p for p in history.candidates if p.status not in KEPT.states):
        right = point.number <= 0.8 * scale.last_run
        shown = _fits(point, scale)
        height = point.val_bpb if shown else AT_TOP if point.val_bpb is None else OFF_SCALE
        axes.annotate(
            _short(point.name),
            (point.number, height),
            xycoords="data" if shown else axes.get_xaxis_transform(),
            xytext=(9 if right else -9, 3),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if shown else "center",
            fontsize=9.5,
            color="#555555",
            zorder=7,
            path_effects=halo(),
            parse_math=False,
        )


def halo() -> list[Any]:
    """White around letters, so that lines may pass below them."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground="white", alpha=0.8)]


def _fits(point: CandidatePoint, scale: Scale) -> bool:
    return point.val_bpb is not None and point.val_bpb <= scale.high


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
