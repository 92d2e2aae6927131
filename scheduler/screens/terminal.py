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
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, JustifyMethod, RenderResult, RichCast
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scheduler.domain.text import spelt

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


def paint(renderables: Iterable[Renderable], stream: TextIO) -> None:
    """Print on a stream; into a pipe or a file without blanks at the ends of lines."""
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPED_WIDTH
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    if stream.isatty():
        _paint(console, renderables)
        return
    with console.capture() as captured:
        _paint(console, renderables)
    stream.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    stream.flush()


def painted(renderables: Iterable[Renderable], width: int = 80) -> str:
    """The same as text without colour."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False, color_system=None)
    _paint(console, renderables)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _paint(console: Console, renderables: Iterable[Renderable]) -> None:
    for renderable in renderables:
        if isinstance(renderable, str | Text):
            renderable = _spelt(renderable, console.encoding)
        verbatim = isinstance(renderable, Text) and renderable.no_wrap is True
        console.print(renderable, soft_wrap=verbatim)


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def terminal_size(lines: int) -> tuple[int, int]:
    """Columns and lines of stdout; `lines` where it is no terminal and LINES says nothing."""
    width = 80 if on_terminal() else PIPED_WIDTH
    size = shutil.get_terminal_size((width, lines))
    return size.columns, size.lines


@contextmanager
def redrawing() -> Iterator[Callable[[Frame], None]]:
    """The whole terminal, drawn anew by each call; what stood there before comes back at the end."""
    from rich.live import Live

    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda frame: live.update(frame(*console.size), refresh=True)


def _spelt(text: str | Text, encoding: str) -> Text:
    """As it can be printed, before places are counted: a plain spelling may be longer than the sign."""
    line = Text(text) if isinstance(text, str) else text
    plainly = spelt(line.plain, encoding)
    if plainly == line.plain:
        return line
    return Text(plainly, style=line.style, no_wrap=line.no_wrap)


class Columns:
    """A table without lines. On a narrow terminal only flexible columns are cut, with …, down to their heads.

    Then those in `drop` are left out, in that order, and a line below says which; what is still too wide is wrapped.
    """

    def __init__(
        self, *heads: str, right: Sequence[str] = (), flexible: str | Sequence[str] = (), drop: Sequence[str] = ()
    ) -> None:
        self._heads, self._right, self._drop = heads, right, drop
        self._flexible = (flexible,) if isinstance(flexible, str) else flexible
        self._rows: list[list[Text]] = []

    def add(self, *cells: str | Text) -> None:
        self._rows.append([Text(cell) if isinstance(cell, str) else cell for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [[_spelt(cell, options.encoding) for cell in row] for row in self._rows]
        wanted = {head: max([cell_len(head), *(row[i].cell_len for row in rows)]) for i, head in enumerate(self._heads)}
        widths = self._fitted(wanted, options.max_width)
        table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for head, width in widths.items():  # rich's own shrinking takes from every column
            justify: JustifyMethod = "right" if head in self._right else "left"
            cut = head in self._flexible
            table.add_column(head, justify=justify, no_wrap=cut, overflow="ellipsis" if cut else "fold", width=width)
        for row in rows:
            table.add_row(*(cell for head, cell in zip(self._heads, row, strict=True) if head in widths))
        yield table
        if left_out := [head for head in self._heads if head not in widths]:
            yield Text(f"left out at this width: {', '.join(left_out)}", style="dim")

    def _fitted(self, wanted: dict[str, int], most: int) -> dict[str, int]:
        """Cells of the columns that are shown, by their heads."""
        least = {head: cell_len(head) if head in self._flexible else width for head, width in wanted.items()}
        for head in self._drop:
            if _table_width(least) > most:
                del least[head]
        fitted = {head: wanted[head] for head in least}
        for head in self._flexible:
            if head in fitted:
                over = max(0, _table_width(fitted) - most)
                fitted[head] = max(least[head], fitted[head] - over)
        return fitted


def _table_width(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(widths) - 1


class Spelt:
    """Something made of texts, laid out once the encoding they are printed in is known."""

    def __init__(self, lay_out: Callable[[Callable[[str | Text], Text]], ConsoleRenderable]) -> None:
        self._lay_out = lay_out

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._lay_out(lambda text: _spelt(text, options.encoding))


def indented(text: str) -> Spelt:
    """A sentence that goes on below its own beginning."""
    return Spelt(lambda spell: Padding(spell(text), (0, 0, 0, 2)))


def pairs(rows: Iterable[tuple[str, Text | str]]) -> Spelt:
    """Names on the left, what they are on the right, wrapped below itself."""
    shown = list(rows)

    def lay_out(spell: Callable[[str | Text], Text]) -> Table:
        table = Table(box=None, pad_edge=False, show_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for name, value in shown:
            table.add_row(name, spell(value))
        return table

    return Spelt(lay_out)


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
