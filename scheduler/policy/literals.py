"""Values as Python source spells them: evaluated without running anything, and written down again.

Covers numbers, strings, tuples of them, signs and arithmetic such as 2**19. Nothing else has a value here.
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable
from typing import Any

Constant = int | float | str | bool | tuple["Constant", ...]

_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}
_MAX_BITS = 256  # of a number on the way: 2**19 is meant, 9**9**9 would never end


class NoLiteral(ValueError):
    """The expression has no value without running the program."""


def evaluate(node: ast.expr) -> Constant:
    """The value of an expression. Raises NoLiteral."""
    try:
        return _evaluate(node)
    except (ValueError, TypeError, ArithmeticError, RecursionError) as problem:
        raise NoLiteral(str(problem)) from None


def has_value(node: ast.expr) -> bool:
    try:
        evaluate(node)
    except NoLiteral:
        return False
    return True


def spell(value: Constant) -> str:
    """Source text that evaluates to the value, strings in double quotes. Raises NoLiteral for infinities and NaN."""
    if isinstance(value, tuple):
        return f"({', '.join(map(spell, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, str):
        return _quoted(value)
    if not math.isfinite(value):
        raise NoLiteral(f"{value} cannot be written as a literal")
    return repr(value)


def _evaluate(node: ast.expr) -> Constant:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(element) for element in node.elts)
    return _number(node)


def _number(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant):
        value = node.value
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        value = _UNARY[type(node.op)](_number(node.operand))
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        value = _combined(node.op, _number(node.left), _number(node.right))
    else:
        raise NoLiteral(f"a {type(node).__name__} has no value before the program runs")
    if not isinstance(value, int | float):
        raise NoLiteral("not a number")
    return value


def _combined(op: ast.operator, left: int | float, right: int | float) -> Any:
    if isinstance(op, ast.Pow | ast.LShift) and isinstance(left, int) and isinstance(right, int):
        grown = left.bit_length() * right if isinstance(op, ast.Pow) else left.bit_length() + right
        if grown > _MAX_BITS:
            raise NoLiteral("too large a number")
    return _BINARY[type(op)](left, right)


def _quoted(text: str) -> str:
    """JSON's escapes are Python's too; what UTF-8 cannot hold (half a surrogate pair) is escaped as well."""
    return json.dumps(text, ensure_ascii=False).encode(errors="backslashreplace").decode()
