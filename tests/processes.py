"""What the kernel says of other processes of this machine, to tests: any of them may end while it is asked.

Not `harness/processes.py`, which measures a candidate's tree and is itself under test.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def is_running(pid: int) -> bool:
    """A zombie is dead: it runs nothing and holds nothing."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def carrying(mark: str) -> list[int]:
    """Living processes with this in their environment: what a command given it has started, but for what it cleaned."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(mark) in (entry / "environ").read_bytes():  # a zombie's is empty
                found.append(int(entry.name))
    return found


def command_of(pid: int) -> str:
    """The arguments a process was started with, a space after each; "" of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def has_open(pid: int, path: Path) -> bool:
    """Has a process this file open? Files that it closes meanwhile are passed over."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(entry) == str(path):
                    return True
    return False


def descendants(pid: int) -> list[int]:
    """Every living descendant of a process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        for child in children.get(left.pop(), []):
            found.append(child)
            left.append(child)
    return found
