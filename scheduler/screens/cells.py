"""Lines of letters of an exact width: cut with …, padded, side by side. Widths are terminal cells, not characters."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

FULL, EMPTY = "█", "·"


def fit(text: str | Text, width: int, *, right: bool = False, style: str = "") -> Text:
    """Exactly so wide."""
    line = Text(text, style=style) if isinstance(text, str) else text.copy()
    line.truncate(max(0, width), overflow="ellipsis")
    free = max(0, width - line.cell_len)
    return Text.assemble(" " * free, line) if right else Text.assemble(line, " " * free)


def row(cells: Sequence[Text], width: int) -> Text:
    """Cells side by side, a blank between them, cut at the width."""
    line = Text(" ").join(cells)
    line.truncate(width, overflow="ellipsis")
    return line


def bar(share: float, width: int) -> str:
    """`██████····`; more than whole is whole."""
    filled = int(width * min(1.0, max(0.0, share)))
    return FULL * filled + EMPTY * (width - filled)


def beside(left: Sequence[Text], right: Sequence[Text], width: int, gap: int = 2) -> list[Text]:
    """Two blocks of lines side by side, the left one `width` cells wide."""
    lines = []
    for number in range(max(len(left), len(right))):
        one = left[number] if number < len(left) else Text()
        other = right[number] if number < len(right) else Text()
        lines.append(Text.assemble(fit(one, width), " " * gap, other))
    return lines
