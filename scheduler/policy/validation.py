"""Is this a candidate at all? Reasons a train.py is refused before it costs a slot its budget.

Covers bytes and changed paths, as values. Does not run or import the source, and does not look for cheating: that is
the judge's.
"""

from __future__ import annotations

import ast
import tokenize
import warnings
from collections.abc import Iterable

from scheduler.domain.errors import CandidateRejected

TRAIN_PY = "train.py"
MAX_BYTES = 128 * 1024
_BOM = b"\xef\xbb\xbf"
_SHOWN_PATHS, _SHOWN_CHARACTERS = 5, 80


def check_train_py(data: bytes) -> str:
    """The decoded source, a byte order mark taken off. Raises CandidateRejected with the reason and what to do."""
    if not data.removeprefix(_BOM).strip():
        raise CandidateRejected("train.py is empty", "start from the baseline's: arsched new NAME")
    if len(data) > MAX_BYTES:
        hint = "weights and data do not belong in the source"
        raise CandidateRejected(f"train.py has {len(data):,} bytes, the limit is {MAX_BYTES:,}", hint)
    text = _decode(data.removeprefix(_BOM))
    _check_declared_encoding(data)
    parse_source(text)
    return text


def check_changed_paths(paths: Iterable[str]) -> None:
    """Raises CandidateRejected when anything but train.py differs from the baseline."""
    others = sorted(set(paths) - {TRAIN_PY})
    if others:
        shown = ", ".join(map(_printable, others[:_SHOWN_PATHS]))
        more = f" and {len(others) - _SHOWN_PATHS} more" if len(others) > _SHOWN_PATHS else ""
        hint = "only train.py may differ from the baseline: take the other changes back, then submit again"
        raise CandidateRejected(f"it also changes {shown}{more}", hint)


def parse_source(text: str) -> ast.Module:
    """The syntax tree of a train.py. Raises CandidateRejected when it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is the candidate's business
            return ast.parse(text)
    except SyntaxError as problem:
        line = f"line {problem.lineno}: {_printable((problem.text or '').strip())}"
        message = f"train.py does not parse: {problem.msg}, {line}"
        raise CandidateRejected(message, "fix the syntax, then submit again") from None
    except (RecursionError, MemoryError):
        message = "train.py does not parse: an expression is nested too deeply"
        raise CandidateRejected(message, "write it in several statements") from None
    except ValueError as problem:
        raise CandidateRejected(f"train.py does not parse: {problem}", "fix the source, then submit again") from None


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        at = f"byte {problem.start} (0x{data[problem.start]:02x})"
        raise CandidateRejected(f"train.py is not UTF-8: {at}", "save the file as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise CandidateRejected(f"train.py holds a NUL character, line {line}", "is it a text file?")
    return text


def _check_declared_encoding(data: bytes) -> None:
    """A coding line makes Python read other text than the one checked and compared here."""
    try:
        encoding, _ = tokenize.detect_encoding(iter(data.splitlines(keepends=True)).__next__)
    except SyntaxError as problem:
        raise CandidateRejected(f"train.py does not parse: {problem.msg}", "take the coding line away") from None
    if encoding not in ("utf-8", "utf-8-sig"):
        raise CandidateRejected(f"train.py declares itself {encoding}", "take the coding line away: it is UTF-8")


def _printable(text: str) -> str:
    """One line that cannot move a terminal's cursor, cut where it gets long."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_SHOWN_CHARACTERS]
