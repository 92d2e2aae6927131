"""Text as a reader may see it: no control characters, cut to a length, spelt plainly where an encoding lacks a sign;
probabilities never rounded up; ids in order.

Names, titles and logs come from candidates, so they are data: whatever could move a cursor, recolour a terminal or
turn the direction of writing is taken out. Not covered: other numbers and times.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import ROUND_FLOOR, Decimal

# Terminal sequences: CSI (colours, cursor), OSC (titles, links; ended by BEL or ESC \), and the two-character ones.
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -~]?", re.DOTALL)
# Control, format (bidirectional overrides among them), surrogate, private and separator characters.
NO_QUOTES = str.maketrans("`“”", "'''")  # what could end a quotation
PLAIN = str.maketrans({
    "−": "-", "–": "-", "±": "+/-", "×": "x", "≥": ">=", "≤": "<=", "→": "->", "←": "<-", "▶": ">", "·": ".",
    "…": "...", "“": '"', "”": '"', "²": "^2", "°": "", "σ": "sigma", "Φ": "Phi", "√": "sqrt", "\u0302": "",
    "─": "-", "━": "=", "│": "|", "┃": "|", "┓": "+", "├": "|", "┤": "|", "┊": ":", "█": "#", "●": "o",
})  # fmt: skip
_CONTROL = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def clean(text: str) -> str:
    """The text without terminal sequences and control characters; newlines and tabs stay, a lone \\r ends a line."""
    if text.isprintable():  # no control, format or separator character but the space
        return text
    text = _SEQUENCE.sub("", text.replace("\r\n", "\n")).replace("\r", "\n")
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _CONTROL)


def one_line(text: str) -> str:
    """`clean`, with every run of blanks as one space."""
    return " ".join(clean(text).split())


def candidates_words(text: str, longest: int = 400) -> str:
    """Text that a candidate or its author wrote, marked as that: on one line, in “quotes” that it cannot end."""
    return f"the candidate's words: “{shorten(one_line(text).translate(NO_QUOTES), longest)}”"


def plain(text: str) -> str:
    """The text in ASCII: signs in plain spellings, letters without their marks, else as \\u and their number."""
    letters = unicodedata.normalize("NFKD", text.translate(PLAIN))
    bare = "".join(c for c in letters if not unicodedata.combining(c))
    return bare.encode("ascii", "backslashreplace").decode("ascii")


def spelt(text: str, encoding: str) -> str:
    """The text with whatever the encoding lacks spelt plainly; the rest as it is."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(c if _is_in(c, encoding) else plain(c) for c in text)
    return text


def _is_in(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def flat(text: str) -> str:
    """`clean`, on one line, with its columns kept."""
    return " ".join(clean(text).splitlines())


def shorten(text: str, characters: int) -> str:
    """The text, or its beginning and …"""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def tail(text: str, characters: int) -> str:
    """The text, or … and its end."""
    return text if len(text) <= characters else "…" + text[-(characters - 1) :]


def count(number: int, noun: str, many: str = "") -> str:
    """`1 run`, `3 runs`; `many` where the plural is another word."""
    return f"{number} {noun}" if number == 1 else f"{number} {many or noun + 's'}"


def signed(bpb: float, places: int = 4) -> str:
    """`−0.0130`, `+0.0001`; never a signed zero."""
    text = f"{bpb:+.{places}f}"
    return text[1:] if not float(text) else text.replace("-", "−")


def probability(p: float, places: int = 2) -> str:
    """P cut, never rounded up: 0.979 must not read as the 0.98 that promotes, nor 0.999 as certainty."""
    return f"{Decimal(repr(float(p))).quantize(Decimal(1).scaleb(-places), ROUND_FLOOR):f}"


def id_order(ref: str) -> tuple[str, int]:
    """Sort key of an id: its letter, then its number, so that c9 is before c10 and r9999 before r10000."""
    letters = ref.rstrip("0123456789")
    return letters, int(ref[len(letters) :] or 0)
