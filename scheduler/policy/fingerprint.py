"""When are two train.py the same idea to the letter? Equal fingerprints mean equal programs.

Comments, blank lines, formatting and docstrings do not count; any literal does, so an edit of the seed alone is another
program (and gains nothing: seeds are the scheduler's). Does not see that two different programs compute the same.
"""

from __future__ import annotations

import ast
import hashlib


def fingerprint(source: str) -> str:
    """sha256 (hex) of the normalised syntax tree. The source must parse (policy.validation)."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree, annotate_fields=False).encode()).hexdigest()


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
