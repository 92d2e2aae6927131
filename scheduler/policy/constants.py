"""The constants at the top of a train.py: read, rewritten and merged by name, everything else left as it was.

A constant is an upper-case name that the module binds once, by `NAME = literal`, `NAME: type = literal` or as one of
`A, B = literal, literal`. Text in, text out: comments and layout stay. The source is parsed, never run.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import operator
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scheduler.domain.errors import CandidateRejected
from scheduler.policy.source import parse_source

Constant = int | float | str | bool | tuple["Constant", ...]

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
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
_MAX_BITS = 256  # of an intermediate number: 2**19 is meant, 9**9**9 would never end


class NoLiteral(ValueError):
    """The expression has no value without running the program."""


@dataclass(frozen=True, slots=True)
class _Binding:
    """One place where the module gives a name a value; `literal` where that value can be rewritten."""

    name: str
    line: int
    column: int
    literal: ast.expr | None


def read_constants(source: str) -> dict[str, Constant]:
    """NAME -> value of every constant, in the order of the file. Raises CandidateRejected when it does not parse."""
    return {name: evaluate(node) for name, node in _constants(_bindings(source)).items()}


def rewrite_constants(source: str, values: Mapping[str, Constant]) -> str:
    """The source with the named constants set.

    Raises CandidateRejected for a name that is no constant of it, and for a value that no literal can spell.
    """
    bindings = _bindings(source)
    found = _constants(bindings)
    texts = {}
    for name, value in values.items():
        if name not in found:
            raise _no_constant(name, [b.line for b in bindings if b.name == name], found)
        try:
            texts[name] = to_source(value)
        except NoLiteral as problem:
            raise CandidateRejected(f"{name} cannot be set: {problem}", "give a number, a string or a tuple") from None
    return _set_literals(source, texts)


Merge = Callable[[bytes, bytes, bytes], bytes | None]


def merge_by_name(ours: bytes, base: bytes, theirs: bytes, merge: Merge) -> bytes | None:
    """`ours` with the changes from `base` to `theirs`; None where both changed one thing differently.

    `merge(ours, base, theirs)` merges lines and goes first. Where it finds a conflict, the constants that all three
    have, and the comments behind them, are made equal and the rest is merged; then those that `theirs` changed are set
    by name, as spelled there. So two constants on neighbouring lines do not conflict; one constant with two new values
    does, wherever it stands, and other text.
    """
    merged = merge(ours, base, theirs)
    try:
        if merged is None:
            return _merge_constants(ours.decode(), base.decode(), theirs.decode(), merge)
        return None if _mixes_values(merged.decode(), ours.decode(), theirs.decode()) else merged
    except (CandidateRejected, UnicodeDecodeError):
        return merged  # whether it is a program is for whoever reads it to say


def _mixes_values(merged: str, ours: str, theirs: str) -> bool:
    """Whether a constant of both has the value of neither: a tuple with a line of each, or one name set in two places.

    Raises CandidateRejected for a source that does not parse.
    """
    mine, new, found = (_spelled(source) for source in (ours, theirs, merged))
    both = ((name, (mine[name].value, new[name].value)) for name in mine.keys() & new.keys())
    return any(len(set(of)) > 1 and (name not in found or found[name].value not in of) for name, of in both)


def _merge_constants(ours: str, base: str, theirs: str, merge: Merge) -> bytes | None:
    """Raises CandidateRejected for a source that does not parse."""
    mine, old, new = (_spelled(source) for source in (ours, base, theirs))
    common = mine.keys() & old.keys() & new.keys()
    moved = {name: new[name] for name in common if new[name].value != old[name].value}
    if any(mine[name].value not in (old[name].value, one.value) for name, one in moved.items()):
        return None
    differing = {name for name in common if not mine[name] == old[name] == new[name]}
    commented = {name for name in differing if None not in (mine[name].tail, old[name].tail, new[name].tail)}
    equal = {name: mine[name].text + (mine[name].tail or "") * (name in commented) for name in differing}
    rest = merge(ours.encode(), *(_set_literals(one, equal, commented).encode() for one in (base, theirs)))
    if rest is None or not differing <= _spelled(rest.decode()).keys():
        return None
    final = {name: _final(mine[name], old[name], new[name], name in commented) for name in differing}
    merged = _set_literals(rest.decode(), final, commented)
    wanted = {name: (moved.get(name) or mine[name]).value for name in common}
    found = _spelled(merged)  # a literal may read otherwise in its new place: a tuple without parentheses, for one
    return merged.encode() if all(name in found and found[name].value == wanted[name] for name in wanted) else None


class _Spelled(NamedTuple):
    """A constant's literal as written, and its value as `repr`, which tells 1, 1.0 and True apart.

    `tail` is what follows on its line, where that is nothing or a comment; else None.
    """

    text: str
    value: str
    tail: str | None


def _final(mine: _Spelled, old: _Spelled, new: _Spelled, is_commented: bool) -> str:
    """What a constant is written as in the end: theirs where they changed it. A comment goes with the new value."""
    moved = new.value != old.value
    text = new.text if moved else mine.text
    if not is_commented:
        return text
    theirs = new.tail != old.tail and (moved or mine.tail == old.tail)
    return text + ((new.tail if theirs else mine.tail) or "")


def _spelled(source: str) -> dict[str, _Spelled]:
    found, lines = _constants(_bindings(source)), source.encode().splitlines(keepends=True)
    return {
        name: _Spelled(_text_of(node, lines), repr(evaluate(node)), _tail(node, lines)) for name, node in found.items()
    }


def _text_of(node: ast.expr, lines: Sequence[bytes]) -> str:
    """Of a literal over several lines too, whose first and last line are cut."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    text = b"".join(lines[first : last + 1])
    after = len(lines[last]) - (node.end_col_offset or 0)
    return text[node.col_offset : len(text) - after].decode()


def _tail(node: ast.expr, lines: Sequence[bytes]) -> str | None:
    tail = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset :].decode().rstrip("\r\n")
    return tail if not tail.strip() or tail.lstrip().startswith("#") else None


def _set_literals(source: str, texts: Mapping[str, str], to_line_end: Container[str] = ()) -> str:
    """The source with the literals of these constants, which it has, replaced; some with what follows on their line."""
    found = _constants(_bindings(source))
    lines = source.encode().splitlines(keepends=True)  # bytes: columns of the syntax tree count UTF-8 bytes
    for name in sorted(texts, key=lambda name: _place(found[name]), reverse=True):  # from the end: places stay good
        node = found[name]
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        if name in to_line_end:
            tail = tail[len(tail.rstrip(b"\r\n")) :]
        lines[first : last + 1] = [head + texts[name].encode() + tail]
    return b"".join(lines).decode()


def evaluate(node: ast.expr) -> Constant:
    """The value of numbers, strings, tuples of them, signs and arithmetic such as 2**19. Raises NoLiteral."""
    try:
        return _evaluate(node)
    except (ValueError, TypeError, ArithmeticError, RecursionError) as problem:
        raise NoLiteral(str(problem)) from None


def to_source(value: Constant) -> str:
    """Source text that evaluates to the value, strings in double quotes. Raises NoLiteral for infinities and NaN."""
    if isinstance(value, tuple):
        return f"({', '.join(map(to_source, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, str):
        # JSON's escapes are Python's too; what UTF-8 cannot hold (half a surrogate pair) is escaped as well.
        return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    if not math.isfinite(value):
        raise NoLiteral(f"{value} cannot be written as a literal")
    return repr(value)


def _constants(bindings: Iterable[_Binding]) -> dict[str, ast.expr]:
    times = Counter(binding.name for binding in bindings)
    return {b.name: b.literal for b in bindings if b.literal and b.name.isupper() and times[b.name] == 1}


def _bindings(source: str) -> list[_Binding]:
    """Every binding of a name of the module, in the order of the file; those inside functions are other names."""
    tree = parse_source(source)
    literals = {id(target): value for statement in tree.body for target, value in _literal_pairs(statement)}
    found: list[_Binding] = []
    todo: list[tuple[ast.AST, bool]] = [(tree, False)]
    while todo:
        node, local = todo.pop()
        for name in _names_bound(node, local):
            found.append(_Binding(name, *_place(node), literals.get(id(node))))
        local = local or isinstance(node, _Definition | ast.Lambda)
        todo += [(child, local) for child in ast.iter_child_nodes(node)]
    return sorted(found, key=lambda binding: (binding.line, binding.column))


def _names_bound(node: ast.AST, local: bool) -> list[str]:
    match node:
        case ast.Global(names=names):
            return names
        case _ if local:
            return []
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.MatchMapping(rest=str(name)):
            return [name]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.alias(name=name, asname=asname):
            return [asname or name.partition(".")[0]]
    return []


def _literal_pairs(statement: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Target and value of assignments that give each name its own literal; `A = B = 1` gives two names the same."""
    match statement:
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
            pairs = list(zip(names, values, strict=False)) if len(names) == len(values) else []
        case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
            pairs = [(target, value)]
        case _:
            pairs = []
    for target, value in pairs:
        if isinstance(target, ast.Name):
            try:
                evaluate(value)
            except NoLiteral:
                continue
            yield target, value


def _place(node: ast.AST) -> tuple[int, int]:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


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


def _no_constant(name: str, lines: list[int], constants: Iterable[str]) -> CandidateRejected:
    if len(lines) > 1:
        message = f"train.py sets {name} in {len(lines)} places: lines {', '.join(map(str, lines))}"
        return CandidateRejected(message, f"leave one `{name} = value` at module level")
    if lines:
        message = f"{name} on line {lines[0]} of train.py is not a constant"
        return CandidateRejected(message, f"it must be one plain `{name} = value` at module level, in capitals")
    near = difflib.get_close_matches(name, constants, 1)
    hint = f"did you mean {near[0]}?" if near else "it must be one plain `NAME = value` at module level"
    return CandidateRejected(f"train.py has no constant {name} to set", hint)
