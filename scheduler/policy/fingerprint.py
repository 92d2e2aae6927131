"""When are two train.py the same idea to the letter? Equal fingerprints mean equal programs.

Comments, blank lines, formatting and docstrings do not count; any literal does, so an edit of the seed alone is another
program (and gains nothing: seeds are the scheduler's). Does not see that two different programs compute the same.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from typing import Any

from scheduler.policy.validation import parse_source

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_OPEN, _CLOSE = "(", ")"


def fingerprint(source: str) -> str:
    """sha256 (hex) of the normalised syntax tree. Raises CandidateRejected when the source does not parse."""
    text = " ".join(_spell(parse_source(source)))
    return hashlib.sha256(text.encode()).hexdigest()


def _spell(tree: ast.AST) -> Iterator[str]:
    """The tree as words, in which no two trees look alike. A stack of its own: programs may be nested deeply."""
    todo: list[Any] = [tree]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, ast.Constant):
            yield f"Constant {_literal(item.value)}"  # told from the bare None in {**x} or in a missing default
        elif isinstance(item, ast.AST):
            yield type(item).__name__
            todo += reversed([_OPEN, *_fields(item), _CLOSE])
        else:
            todo += reversed([_OPEN, *map(_leaf, item), _CLOSE])


def _fields(node: ast.AST) -> Iterator[Any]:
    """Name and value of each field that says something; Python's versions differ in the empty ones they add."""
    for name, value in ast.iter_fields(node):
        if isinstance(node, _Documented) and name == "body":
            value = value[1:] if _has_docstring(node) else value
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
