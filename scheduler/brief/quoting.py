"""Other people's words in a brief: one line, short, and unable to look like anything but a quotation."""

from __future__ import annotations

from scheduler.domain.text import one_line

LONGEST_QUOTE = 90
_NO_QUOTES = str.maketrans("`“”", "'''")


def quote(text: str, longest: int = LONGEST_QUOTE) -> str:
    """The text in “quotes”, without control characters, backticks or quotes of its own."""
    plain = one_line(text).translate(_NO_QUOTES)
    return f"“{shorten(plain, longest)}”"


def shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def listed(lines: list[str], most: int, what: str) -> list[str]:
    """At most `most` lines, the last of which counts what is left out."""
    if len(lines) <= most:
        return lines
    kept = max(0, most - 1)
    return [*lines[:kept], f"- and {len(lines) - kept} more {what}: `arsched leaderboard`"]
