"""What git shall not see of the lab, said in .git/info/exclude: the user's own .gitignore stays as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scheduler.domain.errors import GitProblem
from scheduler.git.plumbing import try_git

HEADING = "# arsched"
_PATTERNS = {"GIT_LITERAL_PATHSPECS": "0"}


def exclude(root: Path, common_dir: Path, patterns: Sequence[str]) -> tuple[str, ...]:
    """Have git ignore each pattern (like "/.arsched/" or "/candidates/*"). Returns those that were not ignored yet."""
    new = tuple(pattern for pattern in patterns if not _is_ignored(root, pattern))
    if not new:
        return ()
    path = common_dir / "info" / "exclude"
    try:
        path.parent.mkdir(exist_ok=True)
        before = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
        start = before if not before or before.endswith("\n") else before + "\n"
        beside = path.with_name(f".exclude.{os.getpid()}")
        beside.write_text("\n".join([f"{start}{HEADING}", *new, ""]), encoding="utf-8", errors="surrogateescape")
        beside.replace(path)
    except OSError as problem:
        raise GitProblem(f"cannot write {path}: {problem.strerror}", "is the repository writable?") from None
    return new


def _is_ignored(root: Path, pattern: str) -> bool:
    """Asked of a file the pattern would match; the index is left out, so that tracked files do not hide the answer."""
    probe = pattern.strip("/").replace("*", "arsched-probe") + ("/arsched-probe" if pattern.endswith("/") else "")
    # The path is spelled out, so git's literal pathspecs, which this command refuses, are not needed.
    return try_git(root, "check-ignore", "--quiet", "--no-index", "--", probe, environment=_PATTERNS)[0] == 0
