"""The constants at the top of a train.py: read by name, rewritten by name, everything else left as it was.

A constant is a plain module-level `NAME = literal` (or `NAME: type = literal`) with an upper-case name, assigned once.
Text in, text out: comments and layout stay.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Mapping
from typing import Any

from scheduler.domain.errors import CandidateRejected

Constant = int | float | str | bool | tuple["Constant", ...]
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Pow: operator.pow,
    ast.Mult: operator.mul,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
}


def read_constants(source: str) -> dict[str, Constant]:
    """NAME -> value of every constant, in the order of the file. Names assigned twice are left out."""
    return {name: _evaluate(value) for name, value in _assignments(source).items()}


def rewrite_constants(source: str, values: Mapping[str, int | float | str]) -> str:
    """The source with the named constants set. Raises CandidateRejected for a name it does not have."""
    found = _assignments(source)
    for name in values:
        if name not in found:
            near = difflib.get_close_matches(name, found, 1)
            hint = f"did you mean {near[0]}?" if near else "it must be one plain `NAME = value` at module level"
            raise CandidateRejected(f"train.py has no constant {name} to set", hint)
    lines = source.encode().splitlines(keepends=True)
    for name in sorted(values, key=lambda name: _place(found[name]), reverse=True):
        _replace(
            lines, found[name], repr(values[name]) if isinstance(values[name], float | int) else _quoted(values[name])
        )
    return b"".join(lines).decode()


def _place(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _assignments(source: str) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    assigned: list[str] = []
    for statement in ast.parse(source).body:
        for name, value in _targets(statement):
            assigned.append(name)
            if _is_literal(value):
                found[name] = value
    return {name: value for name, value in found.items() if assigned.count(name) == 1 and name.isupper()}


def _targets(statement: ast.stmt) -> list[tuple[str, ast.expr]]:
    if isinstance(statement, ast.Assign):
        return [(target.id, statement.value) for target in statement.targets if isinstance(target, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        return [(statement.target.id, statement.value)]
    return []


def _is_literal(node: ast.expr) -> bool:
    try:
        _evaluate(node)
    except (ValueError, TypeError, ArithmeticError):
        return False
    return True


def _evaluate(node: ast.expr) -> Constant:
    """Literals, tuples, signs and arithmetic of numbers such as 2**19. Raises ValueError for anything else."""
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _number(node.left), _number(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > 64:
            raise ValueError("too large")
        result: Constant = _BINARY[type(node.op)](left, right)
        return result
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(element) for element in node.elts)
    value = ast.literal_eval(node)
    if not isinstance(value, int | float | str):
        raise ValueError("not a number, a string or a tuple of them")
    return value


def _number(node: ast.expr) -> int | float:
    value = _evaluate(node)
    if not isinstance(value, int | float):
        raise ValueError("arithmetic of something else than numbers")
    return value


def _replace(lines: list[bytes], node: ast.expr, text: str) -> None:
    """Columns of the syntax tree count UTF-8 bytes, so the lines are bytes."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    lines[first : last + 1] = [head + text.encode() + tail]


def _quoted(value: int | float | str) -> str:
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
