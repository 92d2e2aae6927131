"""A digest of the code a node runs, so that a supervisor of older code is noticed and replaced.

Covers what a node executes: the harness, and the modules of the scheduler that the slot's actor imports. The ledger
and the command line may change without touching a node.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from scheduler.node.judge_environment import CODE_ROOT

ENTRY = "scheduler.node.actor"
REFEREE_SUFFIXES = (".py", ".yaml")


@cache
def code_digest(root: Path = CODE_ROOT) -> str:
    """Twelve hex digits naming the node's code below `root`."""
    digest = hashlib.sha256()
    harness = {path for path in (root / "harness").rglob("*") if path.suffix in REFEREE_SUFFIXES}
    for path in sorted(harness | import_closure(root)):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def import_closure(root: Path, entry: str = ENTRY) -> set[Path]:
    """The files of `scheduler` that importing `entry` loads, sooner or later, itself among them."""
    found: set[Path] = set()
    pending = [entry]
    while pending:
        module = pending.pop()
        path = _file_of(root, module)
        if path is not None and path not in found:
            found.add(path)
            package = module.rpartition(".")[0]
            pending += [*([package] if package else []), *_imported(ast.parse(path.read_bytes()))]
    return found


def _file_of(root: Path, module: str) -> Path | None:
    place = root.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _imported(tree: ast.Module) -> Iterator[str]:
    """Every name of `scheduler` in an import statement; of `from a import b`, both a and a.b may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("scheduler."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scheduler"):
            yield from (name for alias in node.names for name in (str(node.module), f"{node.module}.{alias.name}"))
