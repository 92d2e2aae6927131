"""How long a program is, in lines that hold code: the measure of "simpler".

Blank lines, comments and docstrings do not count, so that explaining a change costs nothing. Does not see that one
line does more than another.
"""

from __future__ import annotations

import ast
import re
import tokenize

from scheduler.policy.validation import parse_source

_NO_CODE = frozenset(
    (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def count_code_lines(source: str) -> int:
    """Lines with at least one token of code. Raises CandidateRejected when the source does not parse."""
    docstrings = _docstring_starts(parse_source(source))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(iter(_python_lines(source)).__next__):
        if token.type not in _NO_CODE and token.start not in docstrings:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def _python_lines(source: str) -> list[str]:
    """As Python ends lines: str.splitlines would also cut at a form feed or a separator inside a string."""
    return re.findall(r"[^\n]*\n|[^\n]+", source.replace("\r\n", "\n").replace("\r", "\n"))


def _docstring_starts(tree: ast.Module) -> frozenset[tuple[int, int]]:
    starts = set()
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            starts.add((first.lineno, first.col_offset))
    return frozenset(starts)
