"""timeline.png: every slot as a lane, every attempt a bar in the colour of its kind; gaps are where the lane shows.

Draws what it is given; reads no ledger. Frame and file are report.plots'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler.report.marks import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY
from scheduler.report.names import halo
from scheduler.views.timeline import Bar, Timeline

KINDS = {
    "baseline": ("run of the baseline", GREEN),
    "new": ("first run", SKY),
    "repeat": ("repeat", ORANGE),
    "union": ("run of a union or port", PURPLE),
    "claim": ("run of the claim", BLUE),
}
FINE = ("ok", "")
LANE, BAR = 1.0, 0.74  # heights
FEW_BARS = 60  # up to which every bar names its candidate
NAMED_SLOTS = 40
HOURS_FROM_S, MINUTES_FROM_S = 3 * 3600.0, 240.0


def draw_timeline(axes: Any, timeline: Timeline) -> None:
    """Bars, marks and labels; the frame is the caller's."""
    lanes = {slot: place for place, slot in enumerate(reversed(timeline.slots))}
    divisor, unit = _unit(timeline.length_s)
    few = len(timeline.bars) <= FEW_BARS
    for kind, (label, color) in KINDS.items():
        _bars(axes, [bar for bar in timeline.bars if bar.kind == kind], lanes, divisor, color, label, few=few)
    _troubles(axes, timeline.bars, lanes, divisor, few=few)
    if few:
        _names(axes, timeline, lanes, divisor)
    for pause in timeline.pauses:
        axes.axvline(pause.at_s / divisor, color=GREY, linestyle=":", linewidth=1.5)
        words = {"rotation": 90, "fontsize": 8, "color": INK, "va": "center", "ha": "left", "path_effects": halo()}
        axes.text(pause.at_s / divisor, (len(lanes) - 1) / 2, f"{pause.skipped_s / 3600:.1f} h left out", **words)
    _axes(axes, timeline, lanes, divisor, unit)


def _bars(
    axes: Any, bars: Sequence[Bar], lanes: dict[str, int], divisor: float, color: str, label: str, *, few: bool
) -> None:
    if not bars:
        return
    left, width = [bar.start_s / divisor for bar in bars], [(bar.end_s - bar.start_s) / divisor for bar in bars]
    style = {"height": BAR, "color": color, "edgecolor": "white", "linewidth": 0.5 if few else 0.0, "label": label}
    axes.barh([lanes[bar.slot] for bar in bars], width, left=left, **style, zorder=2)


def _troubles(axes: Any, bars: Sequence[Bar], lanes: dict[str, int], divisor: float, *, few: bool) -> None:
    """Attempts that gave no score: a cross in the bar, whatever its colour."""
    bad = [bar for bar in bars if bar.outcome not in FINE and not bar.outcome.startswith("suspect")]
    if bad:
        x = [(bar.start_s + bar.end_s) / 2 / divisor for bar in bad]
        y = [lanes[bar.slot] for bar in bad]
        style = {
            "color": RED,
            "markersize": 7 if few else 4,
            "markeredgewidth": 2 if few else 1.2,
            "zorder": 4,
            "label": "no score",
        }
        axes.plot(x, y, "x", **style)


def _names(axes: Any, timeline: Timeline, lanes: dict[str, int], divisor: float) -> None:
    for bar in timeline.bars:
        middle = (bar.start_s + bar.end_s) / 2 / divisor
        style = {"ha": "center", "va": "center", "fontsize": 7.5, "color": INK, "clip_on": True, "zorder": 3}
        style |= {"path_effects": halo()}
        if bar.end_s - bar.start_s > timeline.length_s / 40:
            axes.text(middle, lanes[bar.slot] - 0.22, bar.candidate, **style)


def _axes(axes: Any, timeline: Timeline, lanes: dict[str, int], divisor: float, unit: str) -> None:
    axes.set_xlim(0, max(timeline.length_s, 1.0) / divisor)
    axes.set_ylim(-LANE / 2, max(1, len(lanes)) - LANE / 2)
    step = max(1, -(-len(lanes) // NAMED_SLOTS))
    shown = [(place, slot) for slot, place in lanes.items() if place % step == 0]
    axes.set_yticks([place for place, _ in shown], [slot for _, slot in shown], parse_math=False)
    axes.set_xlabel(f"{unit} since {timeline.began_at or 'the start'}", fontsize=12)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _unit(length_s: float) -> tuple[float, str]:
    if length_s >= HOURS_FROM_S:
        return 3600.0, "hours"
    return (60.0, "minutes") if length_s >= MINUTES_FROM_S else (1.0, "seconds")
