"""timeline.png: a lane for every slot, a bar for every attempt; below, where it was measured, the pace of the machine.

Pace is the speed of the core, as a share of the calibrated one, or a GPU's SM clock, as a share of its highest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.domain.text import count
from scheduler.report.plots import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    WIDTH_IN,
    halo,
    new_figure,
    note_nothing,
    set_title,
    settle,
    to_png,
)
from scheduler.views.report import Bar, Timeline

KINDS = {
    "baseline": ("run of the baseline", GREEN),
    "new": ("first run", SKY),
    "repeat": ("repeat", ORANGE),
    "union": ("run of a union or port", PURPLE),
    "claim": ("run of the claim", BLUE),
    "audit": ("audit", GREY),
    "calibration": ("calibration", INK),
}
FINE = ("ok", "")
STRIP_FRAME_IN = 0.9  # around the rows of the machine's pace
ROW = 0.84  # of a lane's height, from the slowest reading of the lab to the fastest
LANE_IN, FRAME_IN, MOST_LANES = 0.4, 1.7, 40  # inches for a slot, and around them all
LANE, BAR = 1.0, 0.74  # heights
AROUND_IN = 1.5  # of the picture's width, for the names of the slots
NAME_PT, LETTER = 7.5, 0.64  # size of a name in a bar; width of a letter, as a share of that
FEW_BARS = 60  # up to which every bar names its candidate
NAMED_SLOTS = 40
LEAST_RANGE = 0.1  # of the pace, in a row
HOURS_FROM_S, MINUTES_FROM_S = 3 * 3600.0, 240.0


def render_timeline(timeline: Timeline, contract: str) -> bytes:
    """The picture as PNG bytes; higher with more slots."""
    lanes_in = LANE_IN * min(MOST_LANES, max(2, len(timeline.slots)))
    paces = paces_of(timeline)
    figure, (axes, *below) = new_figure(FRAME_IN + lanes_in, *([STRIP_FRAME_IN + lanes_in] if paces else []))
    _draw(axes, timeline)
    for strip in below:
        axes.set_xlabel("")  # the strip has it
        _draw_paces(strip, timeline, paces)
    runs = len({bar.run for bar in timeline.bars})
    set_title(axes, timeline.tag, contract, f"{count(runs, 'run')}  ·  {count(len(timeline.slots), 'slot')}")
    if not timeline.bars:
        note_nothing(axes)
    settle(figure)
    return to_png(figure)


def _draw(axes: Any, timeline: Timeline) -> None:
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
    """One collection for every lane: a patch for every bar takes seconds when there are thousands."""
    by_slot: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for bar in bars:
        by_slot[bar.slot].append((bar.start_s / divisor, (bar.end_s - bar.start_s) / divisor))
    style = {"facecolors": color, "edgecolors": "white", "linewidth": 0.5 if few else 0.0, "zorder": 2}
    for number, (slot, spans) in enumerate(by_slot.items()):
        axes.broken_barh(spans, (lanes[slot] - BAR / 2, BAR), **style, label="" if number else label)


def _troubles(axes: Any, bars: Sequence[Bar], lanes: dict[str, int], divisor: float, *, few: bool) -> None:
    """Attempts that gave no score: a cross in the bar, whatever its colour."""
    bad = [bar for bar in bars if bar.outcome not in FINE and not bar.outcome.startswith("suspect")]
    if bad:
        x = [(bar.start_s + bar.end_s) / 2 / divisor for bar in bad]
        y = [lanes[bar.slot] for bar in bad]
        size, edge = (7, 2) if few else (4, 1.2)
        axes.plot(x, y, "x", color=RED, markersize=size, markeredgewidth=edge, zorder=4, label="no score")


def _names(axes: Any, timeline: Timeline, lanes: dict[str, int], divisor: float) -> None:
    """Of the candidates, in the bars that are long enough for theirs."""
    s_per_in = timeline.length_s / (WIDTH_IN - AROUND_IN)
    for bar in timeline.bars:
        middle = (bar.start_s + bar.end_s) / 2 / divisor
        style = {"ha": "center", "va": "center", "fontsize": NAME_PT, "color": INK, "path_effects": halo()}
        if bar.end_s - bar.start_s > s_per_in * NAME_PT / 72 * LETTER * (len(bar.candidate) + 1):
            axes.text(middle, lanes[bar.slot] - 0.22, bar.candidate, **style, clip_on=True, zorder=3)


def _axes(axes: Any, timeline: Timeline, lanes: dict[str, int], divisor: float, unit: str) -> None:
    axes.set_xlim(0, max(timeline.length_s, 1.0) / divisor)
    axes.set_ylim(-LANE / 2, max(1, len(lanes)) - LANE / 2)
    step = max(1, -(-len(lanes) // NAMED_SLOTS))
    shown = [(place, slot) for slot, place in lanes.items() if place % step == 0]
    axes.set_yticks([place for place, _ in shown], [slot for _, slot in shown], parse_math=False)
    axes.set_xlabel(f"{unit} since {timeline.began_at or 'the start'}", fontsize=12)
    axes.tick_params(labelbottom=True)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the machine was during one run, as shares: mean, lowest and highest. `of` says of what."""

    mean: float
    low: float
    high: float
    of: str
    throttled: bool


def paces_of(timeline: Timeline) -> list[tuple[Bar, Pace]]:
    """Of the runs of which it is known: the core's speed, or the SM clock as a share of that slot's highest."""
    highest: dict[str, float] = defaultdict(float)
    for bar in timeline.bars:
        highest[bar.slot] = max(highest[bar.slot], *(high for _, _, high in _clocks(bar)), 0.0)
    paces = ((bar, _pace(bar, highest[bar.slot])) for bar in timeline.bars)
    return [(bar, pace) for bar, pace in paces if pace is not None]


def _pace(bar: Bar, highest_mhz: float) -> Pace | None:
    machine = bar.machine
    if machine is None:
        return None
    throttled = bool(machine.throttled)
    if machine.speed is not None:
        low, high = (machine.speed if edge is None else edge for edge in (machine.speed_low, machine.speed_high))
        return Pace(machine.speed, low, high, "its calibrated speed", throttled)
    for mean, low, high in _clocks(bar):
        return Pace(mean / highest_mhz, low / highest_mhz, high / highest_mhz, "its highest SM clock", throttled)
    return None


def _clocks(bar: Bar) -> list[tuple[float, float, float]]:
    """Mean, lowest and highest SM clock, MHz; none, or one."""
    found = [values for name, *values in bar.machine.gpu if name == "sm_mhz"] if bar.machine else []
    return [(mean, low, high) for mean, low, high in found if math.isfinite(mean + low + high) and high > 0]


def _draw_paces(axes: Any, timeline: Timeline, paces: Sequence[tuple[Bar, Pace]]) -> None:
    """A row for each slot, all on one scale: each run's mean as a line as long as the run, its range as an upright one.

    Dotted is a pace of 1.
    """
    lanes = {slot: place for place, slot in enumerate(reversed(timeline.slots))}
    divisor, unit = _unit(timeline.length_s)
    top = max(1.0, *(pace.high for _, pace in paces))
    bottom = min(top - LEAST_RANGE, *(pace.low for _, pace in paces))

    def height(slot: str, value: float) -> float:
        return lanes[slot] + ROW * ((value - bottom) / (top - bottom) - 0.5)

    axes.hlines([height(slot, 1.0) for slot in lanes], 0, timeline.length_s / divisor, GREY, "dotted", linewidth=1)
    for throttled, color, label in ((False, BLUE, "pace of the machine: mean and range"), (True, RED, "throttled")):
        some = [(bar, pace) for bar, pace in paces if pace.throttled is throttled]
        if some:
            middles = [(bar.start_s + bar.end_s) / 2 / divisor for bar, _ in some]
            ranges = zip(
                *((height(bar.slot, pace.low), height(bar.slot, pace.high)) for bar, pace in some), strict=True
            )
            axes.vlines(middles, *ranges, color, alpha=0.6, linewidth=1, zorder=2)
            ends = zip(*((bar.start_s / divisor, bar.end_s / divisor) for bar, _ in some), strict=True)
            means = [height(bar.slot, pace.mean) for bar, pace in some]
            axes.hlines(means, *ends, color, linewidth=2.2, zorder=3, label=label)
    _axes(axes, timeline, lanes, divisor, unit)
    scale = f"each row from {bottom:.2f} to {top:.2f} of {paces[0][1].of}, dotted: 1"
    axes.set_title(f"pace of the machine: {scale}", loc="left", fontsize=11)


def _unit(length_s: float) -> tuple[float, str]:
    if length_s >= HOURS_FROM_S:
        return 3600.0, "hours"
    return (60.0, "minutes") if length_s >= MINUTES_FROM_S else (1.0, "seconds")
