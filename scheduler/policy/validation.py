"""Is this a candidate at all? Reasons a train.py is refused before it costs a GPU five minutes.

Covers bytes and changed paths, as values. Does not run or import the source, and does not look for cheating: that is
the judge's.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable

from scheduler.domain.errors import CandidateRejected

TRAIN_PY = "train.py"
MAX_BYTES = 128 * 1024
_BOM = b"\xef\xbb\xbf"


def check_train_py(data: bytes) -> str:
    """The decoded source. Raises CandidateRejected with the reason and what to do."""
    if not data.strip():
        raise CandidateRejected("train.py is empty", "start from the baseline's: arsched new NAME")
    if len(data) > MAX_BYTES:
        hint = "weights and data do not belong in the source"
        raise CandidateRejected(f"train.py has {len(data):,} bytes, the limit is {MAX_BYTES:,}", hint)
    text = _decode(data.removeprefix(_BOM))
    _check_syntax(text)
    return text


def check_changed_paths(paths: Iterable[str]) -> None:
    """Raises CandidateRejected when anything but train.py differs from the baseline."""
    others = sorted(set(paths) - {TRAIN_PY})
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        hint = "only train.py may differ from the baseline: take the other changes back, then submit again"
        raise CandidateRejected(f"it also changes {shown}", hint)


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


def _check_syntax(text: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is the candidate's business
            ast.parse(text)
    except SyntaxError as problem:
        where = f"line {problem.lineno}: {(problem.text or '').strip()[:80]}"
        raise CandidateRejected(
            f"train.py does not parse: {problem.msg}, {where}", "fix the syntax, then submit"
        ) from None
    except (RecursionError, MemoryError, ValueError) as problem:
        raise CandidateRejected(
            f"train.py does not parse: {problem}", "simplify the expression nested too deeply"
        ) from None
