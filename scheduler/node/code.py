"""Which code a node runs: its digest, and the Python that runs it without bytecode that others may have left there.

Python believes a `.pyc` next to a source of the right size and time of change, so a candidate that is not sandboxed
could leave one that the next judge runs. Not covered: the sources and installed packages themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import sys
from functools import cache
from pathlib import Path

import scheduler
from harness.files import cache_root

CODE_ROOT = Path(scheduler.__file__).resolve().parents[1]
NODE_PACKAGES = ("harness", "scheduler/domain", "scheduler/node")  # nothing else is imported on a node
ALL_PACKAGES = ("harness", "scheduler")
_MOST_FOLDERS = 4  # of bytecode, for the latest versions of the code


@cache
def code_digest(root: Path = CODE_ROOT, packages: tuple[str, ...] = NODE_PACKAGES) -> str:
    """Twelve hex digits naming the code a node runs, below `root`: a supervisor of other code is noticed and replaced.

    Covers the harness, and the packages of the scheduler that a supervisor imports; the rest may change without a node.
    """
    digest = hashlib.sha256()
    for path in code_files(root, packages):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def code_files(root: Path, packages: tuple[str, ...] = NODE_PACKAGES) -> list[Path]:
    """The files below `root` that a supervisor and its judges run or read, of whatever kind, in a stable order."""
    found = [path for package in packages for path in (root / package).rglob("*") if path.is_file()]
    return sorted({*(path for path in found if "__pycache__" not in path.parts), *root.glob("scheduler/__init__.py")})


def python_command(module: str) -> tuple[str, ...]:
    """The start of a command line for a module of the harness.

    -P: it starts in folders that candidates may write to. pycache_prefix: bytecode from a folder of this user's own.
    """
    return sys.executable, "-P", "-X", f"pycache_prefix={bytecode_folder(cache_root())}", "-m", module


def bytecode_folder(root: Path) -> Path:
    """A folder for the bytecode of this code and this Python, which no other user can write to; made if need be.

    Where that cannot be had it is a name that is not there and is not given again: then nothing is kept.
    """
    parent = root / "bytecode"
    folder = parent / f"{os.geteuid()}-{code_digest()}-{sys.implementation.cache_tag}"
    with contextlib.suppress(OSError):
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            _remove_older(parent, f"{os.geteuid()}-")
    with contextlib.suppress(OSError):
        found = os.lstat(folder)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
            return folder
    return folder.with_name(f"{folder.name}-{secrets.token_hex(8)}")


def _remove_older(parent: Path, prefix: str) -> None:
    mine = [folder for folder in parent.iterdir() if folder.name.startswith(prefix)]
    mine.sort(key=lambda folder: os.lstat(folder).st_mtime, reverse=True)
    for folder in mine[_MOST_FOLDERS:]:
        shutil.rmtree(folder, ignore_errors=True)
