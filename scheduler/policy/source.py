"""A train.py as a candidate: whether its bytes are one, which program it is, how long it is, and what to call it.

Does not run or import the source, and does not look for cheating: that is the judge's.
"""

from __future__ import annotations

import ast
import hashlib
import re
import tokenize
import warnings
import zlib
from collections.abc import Container, Iterable, Iterator
from itertools import count
from typing import Any

from scheduler.domain.candidate import Source
from scheduler.domain.errors import CandidateRejected

TRAIN_PY = "train.py"
MAX_BYTES = 128 * 1024
MAX_COMPRESSED_BYTES = 48_000  # as zlib's best; the standard train.py has under 8,000
NAME_CHARACTERS, TITLE_CHARACTERS = 40, 200

_BOM = b"\xef\xbb\xbf"
_SHOWN_PATHS, _SHOWN_CHARACTERS = 5, 80
_LIKE_AN_ID = re.compile(r"[a-z]?[0-9]+|last")
_NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
_LEFT_BY_TOOLS = {
    *("__pycache__", ".venv", "venv", "uv.lock", ".python-version", ".cache", ".ipynb_checkpoints", ".gitignore"),
    *(".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis", ".idea", ".vscode", ".DS_Store", "node_modules"),
    *(".claude", ".codex", ".gemini", ".opencode", ".cursor", ".continue", ".goose"),
    *("results.tsv", "progress.png"),  # of an upstream loop
}
_LEFT_NAME = re.compile(r"\.aider.*|.*\.(log|swp|swo|orig|rej|bak)|.*~")
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def read_source(data: bytes) -> Source:
    """Check the bytes of a train.py and parse them once; the source is in the form of `normalised`.

    Raises CandidateRejected with the reason and what to do.
    """
    text = _decode(data)
    tree = parse_source(text)
    stored = text.encode()
    return Source(stored, hashlib.sha256(stored).hexdigest(), _fingerprint(tree), _count_code_lines(text, tree))


def normalised(data: bytes) -> bytes:
    """The form in which a train.py is stored and compared: no byte order mark, every line ended by LF.

    The program is the same: Python reads CR LF and a lone CR as LF, inside strings too.
    """
    return data.removeprefix(_BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def fingerprint(source: str) -> str:
    """sha256 (hex) of the normalised syntax tree: equal fingerprints mean equal programs.

    Comments, blank lines, formatting and docstrings do not count; any literal does, so an edit of the seed alone is
    another program (and gains nothing: seeds are the scheduler's). Does not see that two different programs compute the
    same. Raises CandidateRejected when the source does not parse.
    """
    return _fingerprint(parse_source(source))


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


def check_changed_paths(paths: Iterable[str]) -> None:
    """Raises CandidateRejected when anything but train.py differs from the baseline, but for what tools leave."""
    others = sorted(path for path in set(paths) - {TRAIN_PY} if not left_by_tools(path))
    if others:
        shown = ", ".join(map(_printable, others[:_SHOWN_PATHS]))
        more = f" and {len(others) - _SHOWN_PATHS} more" if len(others) > _SHOWN_PATHS else ""
        hint = "only train.py may differ from the baseline: take the other changes back, then submit again"
        raise CandidateRejected(f"it also changes {shown}{more}", hint)


def left_by_tools(path: str) -> bool:
    """Whether a path is what editors, agents and package managers leave: it never travels with a candidate."""
    parts = path.rstrip("/").split("/")
    return not _LEFT_BY_TOOLS.isdisjoint(parts) or any(_LEFT_NAME.fullmatch(part) for part in parts)


def slug(title: str) -> str:
    """A name for a folder or a column from a title, never one that reads like an id.

    Longer titles are cut between words, unless the first one alone is too long: no number is cut.
    """
    found = re.findall(r"[0-9]+(?:\.[0-9]+)+|[a-z0-9]+", title.lower())
    ends = (len("-".join(found[: number + 1])) for number in range(len(found)))
    fitting = sum(end <= NAME_CHARACTERS for end in ends)
    words = "-".join(found[: max(1, fitting)])[:NAME_CHARACTERS]
    return f"idea-{words}".strip("-") if not words or _LIKE_AN_ID.fullmatch(words) else words


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or `name-2`, `name-3`, … when it is taken: a candidate keeps its name permanently."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(free for free in names if free not in taken)


def _decode(data: bytes) -> str:
    """The text, normalised. Raises CandidateRejected for what cannot be read as UTF-8 source."""
    content = normalised(data)
    if not content.strip():
        raise CandidateRejected("train.py is empty", "start from the baseline's: arsched new NAME")
    if len(data) > MAX_BYTES:
        hint = "weights and data do not belong in the source"
        raise CandidateRejected(f"train.py has {len(data):,} bytes, the limit is {MAX_BYTES:,}", hint)
    if (compressed := len(zlib.compress(data, 9))) > MAX_COMPRESSED_BYTES:
        message = f"train.py has {compressed:,} bytes when compressed, the limit is {MAX_COMPRESSED_BYTES:,}"
        raise CandidateRejected(message, "weights and data do not belong in the source")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        at = f"byte {problem.start} (0x{content[problem.start]:02x})"
        raise CandidateRejected(f"train.py is not UTF-8: {at}", "save the file as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise CandidateRejected(f"train.py holds a NUL character, line {line}", "is it a text file, saved as UTF-8?")
    try:  # a coding line makes Python read other text than the one checked and compared here
        encoding, _ = tokenize.detect_encoding(iter(data.splitlines(keepends=True)).__next__)
    except SyntaxError as problem:
        raise CandidateRejected(f"train.py does not parse: {problem.msg}", "take the coding line away") from None
    if encoding not in ("utf-8", "utf-8-sig"):
        raise CandidateRejected(f"train.py declares itself {encoding}", "take the coding line away: it is UTF-8")
    return text


def _printable(text: str) -> str:
    """One line that cannot move a terminal's cursor, cut where it gets long."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_SHOWN_CHARACTERS]


def _fingerprint(tree: ast.Module) -> str:
    return hashlib.sha256(" ".join(_words(tree)).encode()).hexdigest()


def _words(tree: ast.AST) -> Iterator[str]:
    """The tree as words, in which no two trees look alike. A stack of its own: programs may be nested deeply."""
    todo: list[Any] = [tree]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, ast.Constant):
            yield f"Constant {_literal(item.value)}"  # distinct from the bare None in {**x} or in a missing default
        elif isinstance(item, ast.AST):
            yield type(item).__name__
            todo += reversed(["(", *_fields(item), ")"])
        else:
            todo += reversed(["(", *map(_leaf, item), ")"])


def _fields(node: ast.AST) -> Iterator[Any]:
    """Name and value of each field that says something; Python's versions differ in the empty ones they add."""
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, _Documented) and _has_docstring(node):
            value = value[1:]
        if value is not None and value != []:
            yield f".{name}"
            yield _leaf(value)


def _leaf(value: Any) -> Any:
    return value if isinstance(value, ast.AST | list) else _literal(value)


def _literal(value: object) -> str:
    """Tells 1, 1.0, True and "1" apart; in hexadecimal, because long decimals are refused by Python itself."""
    return hex(value) if type(value) is int else repr(value)


def _has_docstring(node: _Documented) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _count_code_lines(text: str, tree: ast.Module) -> int:
    """Lines with at least one token of code: the measure of "simpler".

    Blank lines, comments and docstrings do not count, so that explaining a change costs nothing. Does not see that one
    line does more than another.
    """
    documented = (n for n in ast.walk(tree) if isinstance(n, _Documented) and _has_docstring(n))
    docstrings = {(node.body[0].lineno, node.body[0].col_offset) for node in documented}
    # Lines as Python ends them: str.splitlines would also cut at a form feed or a separator inside a string.
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    numbers: set[int] = set()
    for token in tokenize.generate_tokens(iter(lines).__next__):
        if token.type not in _NO_CODE and token.start not in docstrings:
            numbers.update(range(token.start[0], token.end[0] + 1))
    return len(numbers)
