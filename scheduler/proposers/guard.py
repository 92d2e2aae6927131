"""What an agent's command may not change or see: the installation, caches, the lab, and everyone else's worktrees.

Its own worktree stays writable, and of the repository what `git commit` needs there: the object store and the
worktree's own folder. Branches, hooks and configuration do not. Read-only: the rest of the repository and its ledger.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import scheduler
from harness.files import cache_root

CODE = Path(scheduler.__file__).resolve().parents[1]


def view_of(repository: Path, worktree: Path, level: str) -> str:
    """The option --view of the process reaper; "" for level off."""
    if level == "off":
        return ""
    own = _git_folder(worktree)
    common = own.parents[1]  # REPOSITORY/.git/worktrees/NAME
    others = [path.read_text().strip().removesuffix("/.git") for path in common.glob("worktrees/*/gitdir")]
    packages = [folder for folder in sys.path if os.path.basename(folder) in ("site-packages", "dist-packages")]
    installed = [sys.prefix, sys.base_prefix, *packages, str(CODE / "harness"), str(CODE / "scheduler")]
    caches = cache_root()
    view = {
        "level": level,
        "folder": str(worktree),
        "read_only": [*installed, str(repository), str(common), str(caches), *others],
        "covered": [str(path) for path in caches.glob("*/judge")],
        "writable": [str(worktree), str(own), str(common / "objects")],
    }
    return json.dumps(view)


def _git_folder(worktree: Path) -> Path:
    """Where git keeps what is this worktree's alone. Its file `.git` holds "gitdir: PATH"."""
    text = (worktree / ".git").read_text(encoding="utf-8").strip()
    return Path(os.path.normpath(worktree / text.removeprefix("gitdir:").strip()))
