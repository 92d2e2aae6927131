"""Python sources already on this machine as a corpus: everywhere the same kind of text, and no download.

Covers: finding the files of the standard library, or of everything below sys.prefix, and reading each distinct one
once, in an order that depends on contents alone. Not covered: cutting them into documents (harness.prepare.shards).
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.prepare.errors import PrepareError

_FOREIGN = {"site-packages", "dist-packages", "__pycache__"}
_LARGEST_BYTES = 4 << 20  # longer sources are generated tables


def python_works(root: str, report: Callable[[str], None]) -> Iterator[str]:
    """Texts of distinct source files, ordered by their sha256. `root`: stdlib or prefix. Raises PrepareError."""
    distinct: dict[bytes, Path] = {}
    for path in _source_files(root):
        if content := _read(path):
            distinct.setdefault(hashlib.sha256(content).digest(), path)
            report(f"{len(distinct)} sources found")
    if not distinct:
        raise PrepareError(
            f"this Python has no sources: {sysconfig.get_path('stdlib')}",
            "use an interpreter with its .py files, or a contract with a folder corpus",
        )
    for done, digest in enumerate(sorted(distinct)):
        text = _decode(_read(distinct[digest]))
        if text:
            yield text
        report(f"{done + 1} of {len(distinct)} sources")


def _source_files(root: str) -> Iterator[Path]:
    yield from _walk(Path(sysconfig.get_path("stdlib")), _FOREIGN)
    if root == "prefix":
        for prefix in sorted({Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}):
            yield from _walk(prefix, {"__pycache__"})


def _walk(top: Path, skipped: set[str]) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(set(folders) - skipped)
        # _sysconfigdata holds paths of the machine it was built on.
        wanted = (name for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata"))
        yield from (Path(folder, name) for name in sorted(wanted))


def _read(path: Path) -> bytes:
    """Content of a source; empty for what cannot be read or is no ordinary source."""
    try:
        return path.read_bytes() if path.stat().st_size <= _LARGEST_BYTES else b""
    except OSError:
        return b""


def _decode(content: bytes) -> str:
    """Text with line ends as they are; empty when the source is in another encoding than UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return ""
