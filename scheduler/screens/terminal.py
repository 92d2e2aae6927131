"""Painting on a terminal: rich, without guessing. Colour on a terminal only; nothing said by colour alone.

Text of candidates arrives cleaned and is never read as markup. Widths are terminal cells, not characters.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, JustifyMethod, RenderResult, RichCast
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Renderable = ConsoleRenderable | RichCast | str
Frame = Callable[[int, int], Renderable]  # columns and lines -> what to draw
PIPED_WIDTH = 120  # columns when stdout is no terminal and COLUMNS says nothing: names need not be cut there

STYLES = {
    "baseline": "bold green",
    "promoted": "green",
    "contender": "yellow",
    "open": "cyan",
    "discarded": "dim",
    "shelved": "blue",
    "failed": "red",
    "cancelled": "dim",
}


def paint(renderables: Iterable[Renderable]) -> None:
    """Print on stdout. What its encoding lacks is replaced rather than an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPED_WIDTH
    _paint(Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False), renderables)


def painted(renderables: Iterable[Renderable], width: int = 80) -> str:
    """The same as text without colour."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False, color_system=None)
    _paint(console, renderables)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _paint(console: Console, renderables: Iterable[Renderable]) -> None:
    for renderable in renderables:
        verbatim = isinstance(renderable, Text) and renderable.no_wrap is True
        console.print(renderable, soft_wrap=verbatim)


def terminal_size(lines: int) -> tuple[int, int]:
    """Columns and lines of stdout; `lines` where it is no terminal and LINES says nothing."""
    width = PIPED_WIDTH if not sys.stdout.isatty() else 80
    size = shutil.get_terminal_size((width, lines))
    return size.columns, size.lines


@contextmanager
def redrawing() -> Iterator[Callable[[Frame], None]]:
    """The whole terminal, drawn anew by each call; what stood there before comes back at the end."""
    from rich.live import Live

    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda frame: live.update(frame(*console.size), refresh=True)


class Columns:
    """A table without lines. Only the flexible column gives way when the terminal is narrow: it ends in …"""

    def __init__(self, *heads: str, right: Sequence[str] = (), flexible: str = "") -> None:
        self._heads, self._right, self._flexible = heads, right, flexible
        self._rows: list[list[Text]] = []

    def add(self, *cells: str | Text) -> None:
        self._rows.append([Text(cell) if isinstance(cell, str) else cell for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [max([cell_len(head), *(row[i].cell_len for row in self._rows)]) for i, head in enumerate(self._heads)]
        if self._flexible:  # rich's own shrinking takes from every column that may wrap
            place = self._heads.index(self._flexible)
            over = sum(widths) + len(widths) - 1 - options.max_width
            widths[place] = max(cell_len(self._flexible), widths[place] - max(0, over))
        table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for head, width in zip(self._heads, widths, strict=True):
            justify: JustifyMethod = "right" if head in self._right else "left"
            table.add_column(head, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
        for row in self._rows:
            table.add_row(*row)
        yield table


def indented(text: str) -> Padding:
    """A sentence that goes on below its own beginning."""
    return Padding(Text(text), (0, 0, 0, 2))


def pairs(rows: Iterable[tuple[str, Renderable | str]]) -> Table:
    """Names on the left, what they are on the right, wrapped below itself."""
    table = Table(box=None, pad_edge=False, show_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value) if isinstance(value, str) else value)
    return table


def verbatim(line: str, style: str = "") -> Text:
    """A line that is never wrapped or cut: a reader may want to apply it."""
    return Text(line, style=style, no_wrap=True)


def state(word: str, status: str) -> Text:
    """A word in the colour of a candidate's status."""
    return Text(word, style=STYLES.get(status, ""))


def fit(text: str | Text, width: int, *, right: bool = False, style: str = "") -> Text:
    """Exactly so wide: cut with … or padded."""
    line = Text(text, style=style) if isinstance(text, str) else text.copy()
    line.truncate(max(0, width), overflow="ellipsis")
    free = max(0, width - line.cell_len)
    return Text.assemble(" " * free, line) if right else Text.assemble(line, " " * free)


def row(cells: Sequence[Text], width: int) -> Text:
    """Cells side by side, a blank between them, cut at the width."""
    line = Text(" ").join(cells)
    line.truncate(width, overflow="ellipsis")
    return line
