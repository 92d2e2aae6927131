"""The staircase in letters: runs from left to right, val_bpb downwards, the baseline as a line of steps.

● a promotion   · a run   * a fresh run of the claim   ^ a score above the picture   × no score
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from rich.text import Text

from scheduler.views.history import History, RunPoint, Step

LABEL = 7  # cells for the scores at the left
ABOVE = 0.3  # of the height, shown above the first baseline
LEAST_BPB = 1e-4
STYLES = {"━": "green", "┃": "green", "┓": "green", "●": "bold green", "·": "dim", "^": "dim", "×": "red", "*": "blue"}
Grid = list[list[str]]


def staircase(history: History, width: int, height: int) -> list[Text]:
    """At most `height` lines of `width` cells; none when there is nothing or no room to draw."""
    scores = [point.val_bpb for point in history.runs if point.val_bpb is not None]
    columns, rows = width - LABEL - 1, height - 1
    if not scores or columns < 8 or rows < 3:
        return []
    low = min(scores)
    start = history.baselines[0].val_bpb if history.baselines else max(scores)
    high = max(start + max(ABOVE * (start - low), 2 * (history.noise_sd_bpb or 0.0)), low + LEAST_BPB)
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
        line.append(cell, STYLES.get(cell, ""))
    return line


def _foot(last: int, width: int) -> Text:
    right = f"run {last}"
    return Text(" " * (LABEL + 1) + "run 1" + right.rjust(width - LABEL - 6), style="dim")
