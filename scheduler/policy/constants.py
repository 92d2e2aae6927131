"""The constants at the top of a train.py: read by name, rewritten by name, everything else left as it was.

A constant is an upper-case name that the module binds once, by `NAME = literal`, `NAME: type = literal` or as one of
`A, B = literal, literal`. Text in, text out: comments and layout stay. The source is parsed, never run.
"""

from __future__ import annotations

import ast
import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from scheduler.domain.errors import CandidateRejected
from scheduler.policy.literals import Constant, NoLiteral, evaluate, has_value, spell
from scheduler.policy.validation import parse_source

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


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
    for name in values:
        if name not in found:
            raise _no_constant(name, [b.line for b in bindings if b.name == name], found)
    lines = source.encode().splitlines(keepends=True)
    for name in sorted(values, key=lambda name: _place(found[name]), reverse=True):  # from the end: places stay good
        _replace(lines, found[name], _spelled(name, values[name]))
    return b"".join(lines).decode()


def _constants(bindings: Iterable[_Binding]) -> dict[str, ast.expr]:
    times = Counter(binding.name for binding in bindings)
    return {b.name: b.literal for b in bindings if b.literal and b.name.isupper() and times[b.name] == 1}


def _bindings(source: str) -> list[_Binding]:
    """Every binding of a name of the module, in the order of the file; those inside functions are other names."""
    tree = parse_source(source)
    literals = {id(target): value for statement in tree.body for target, value in _plain_pairs(statement)}
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


def _plain_pairs(statement: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Target and value of assignments that give each name its own literal; `A = B = 1` gives two names the same."""
    match statement:
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
            pairs = list(zip(names, values, strict=False)) if len(names) == len(values) else []
        case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
            pairs = [(target, value)]
        case _:
            pairs = []
    yield from ((target, value) for target, value in pairs if isinstance(target, ast.Name) and has_value(value))


def _place(node: ast.AST) -> tuple[int, int]:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def _replace(lines: list[bytes], node: ast.expr, text: str) -> None:
    """Columns of the syntax tree count UTF-8 bytes, so the lines are bytes."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    lines[first : last + 1] = [head + text.encode() + tail]


def _spelled(name: str, value: Constant) -> str:
    try:
        return spell(value)
    except NoLiteral as problem:
        raise CandidateRejected(f"{name} cannot be set: {problem}", "give a number, a string or a tuple") from None


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
