"""Drawings in letters: effects with their errors on an axis that many rows share, and the staircase of baselines.

Axes are arithmetic, for pages too. Places on them are percent of the width, 0 to 100: a drawing on a page stretches
with its column, one of letters has few cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from scheduler.views.candidates import History, RunPoint, Step

MARGIN = 0.06  # of the axis, free on both sides
QUANTILE = 0.9  # of the effects that fit; beyond it one is cut and marked
LEAST_BPB = 1e-6
LABEL = 7  # cells for the scores at the left
ABOVE = 0.3  # of the height, shown above the first baseline
LEAST_RANGE_BPB = 1e-4
STAIR_STYLES = {
    "━": "green",
    "┃": "green",
    "┓": "green",
    "●": "bold green",
    "·": "dim",
    "^": "dim",
    "×": "red",
    "*": "blue",
}
Grid = list[list[str]]


@dataclass(frozen=True, slots=True)
class Whisker:
    """`cut` is "<" or ">" where the mean is off the axis."""

    low: float
    mid: float
    high: float
    cut: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high` bpb. `zero` is where no effect stands."""

    low: float
    high: float

    @property
    def zero(self) -> float:
        return self.place(0.0)

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def whisker(self, mean: float, error: float) -> Whisker:
        cut = "<" if mean < self.low else ">" if mean > self.high else ""
        return Whisker(self.place(mean - error), self.place(mean), self.place(mean + error), cut)


def effect_axis(effects: Iterable[tuple[float, float]]) -> Axis:
    """An axis around zero for (mean, error) pairs: the gains whole, the losses as far as most of them go."""
    found = sorted(effects)
    if not found:
        return Axis(-1.0, 1.0)
    low = min(0.0, min(mean - error for mean, error in found))
    tops = sorted(mean + error for mean, error in found)
    high = max(-low / 3, tops[int(QUANTILE * (len(tops) - 1))], LEAST_BPB)
    return _with_margin(low, min(high, max(-3 * low, tops[len(tops) // 2], LEAST_BPB)))


def value_axis(values: Sequence[float]) -> Axis:
    """An axis that holds all values."""
    if not values:
        return Axis(0.0, 1.0)
    return _with_margin(min(values), max(values))


def _with_margin(low: float, high: float) -> Axis:
    room = MARGIN * max(high - low, LEAST_BPB)
    return Axis(low - room, high + room)


def whisker_text(axis: Axis, mean: float, error: float, width: int) -> str:
    """`  ├──●──┤    ┊     `: the error bar in letters, zero as ┊."""
    cells, drawn = [" "] * width, axis.whisker(mean, error)
    low, mid, high, zero = (round(place / 100 * (width - 1)) for place in (drawn.low, drawn.mid, drawn.high, axis.zero))
    cells[zero] = "┊"
    if drawn.cut:
        cells[0 if drawn.cut == "<" else -1] = drawn.cut
        return "".join(cells)
    cells[low : high + 1] = "─" * (high + 1 - low)
    cells[low], cells[high], cells[mid] = "├", "┤", "●"
    return "".join(cells)


def staircase(history: History, width: int, height: int) -> list[Text]:
    """Runs from left to right, val_bpb downwards, the baseline as a line of steps: ━ ┃ ┓.

    ● a promotion   · a run   * a fresh run of the claim   ^ a score above the picture   × no score

    At most `height` lines of `width` cells; none when there is nothing or no room to draw.
    """
    scores = [point.val_bpb for point in history.runs if point.val_bpb is not None]
    columns, rows = width - LABEL - 1, height - 1
    if not scores or columns < 8 or rows < 3:
        return []
    low = min(scores)
    start = history.baselines[0].val_bpb if history.baselines else max(scores)
    high = max(start + max(ABOVE * (start - low), 2 * (history.noise_sd_bpb or 0.0)), low + LEAST_RANGE_BPB)
    grid = [[" "] * columns for _ in range(rows)]
    last = history.runs[-1].number

    def column(number: int) -> int:
        return min(columns - 1, (number - 1) * (columns - 1) // max(1, last - 1))

    def line(val_bpb: float) -> int:
        return min(rows - 1, max(1, 1 + round((rows - 2) * (high - val_bpb) / (high - low))))

    for point in history.runs:
        _mark(grid, point, column(point.number), line, high)
    _steps(grid, history.baselines, [(column(step.number), line(step.val_bpb)) for step in history.baselines])
    labels = {1: f"{high:.4f}", rows - 1: f"{low:.4f}"}
    return [*(_line(labels.get(place, ""), cells) for place, cells in enumerate(grid)), _foot(last, width)]


def _mark(grid: Grid, point: RunPoint, at: int, line: Callable[[float], int], high: float) -> None:
    if point.val_bpb is None:
        grid[0][at] = "×"
    elif point.val_bpb > high:
        grid[0][at] = "^" if grid[0][at] == " " else grid[0][at]
    else:
        grid[line(point.val_bpb)][at] = "*" if point.claim else "·"


def _steps(grid: Grid, steps: Sequence[Step], places: Sequence[tuple[int, int]]) -> None:
    ends = [*(at for at, _ in places[1:]), len(grid[0])]
    for (at, row), end in zip(places, ends, strict=True):
        for cell in range(at, end):
            grid[row][cell] = "━" if grid[row][cell] != "*" else "*"
    for (_, before), (at, row) in itertools.pairwise(places):
        for between in range(min(before, row), max(before, row)):
            grid[between][at] = "┃"
        if before < row:
            grid[before][at] = "┓"
        grid[row][at] = "●"


def _line(label: str, cells: Sequence[str]) -> Text:
    line = Text(f"{label:>{LABEL}} ", style="dim")
    for cell in cells:
        line.append(cell, STAIR_STYLES.get(cell, ""))
    return line


def _foot(last: int, width: int) -> Text:
    right = f"run {last}"
    return Text(" " * (LABEL + 1) + "run 1" + right.rjust(width - LABEL - 6), style="dim")
