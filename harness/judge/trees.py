"""Removing what a candidate left, however deep it is, whatever its modes and wherever its links lead. Standard library.

Covers: files, links, FIFOs, trees. Not covered: mounts, and what belongs to somebody else; those stay.
"""

from __future__ import annotations

import os
import secrets
import stat

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(name: str, dir_fd: int) -> None:
    """Remove `name`, which lies in the folder `dir_fd`, with all that is in it. Raises OSError.

    Folders inside it are moved up next to it one by one and emptied there, so no path grows long and nothing recurses.
    """
    pending = [] if _unlink(name, dir_fd) else [name]
    while pending:
        folder = pending.pop()
        os.chmod(folder, stat.S_IRWXU, dir_fd=dir_fd)
        fd = os.open(folder, _FOLDER, dir_fd=dir_fd)
        try:
            for entry in os.listdir(fd):
                if not _unlink(entry, fd):
                    os.chmod(entry, stat.S_IRWXU, dir_fd=fd)
                    pending.append(random_name(name))
                    os.rename(entry, pending[-1], src_dir_fd=fd, dst_dir_fd=dir_fd)
        finally:
            os.close(fd)
        os.rmdir(folder, dir_fd=dir_fd)


def random_name(name: str) -> str:
    """A hidden name that belongs to `name` and that nobody can have guessed."""
    return f".{name.lstrip('.')[:100]}.{secrets.token_hex(8)}"


def _unlink(name: str, dir_fd: int) -> bool:
    """False for a folder."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except IsADirectoryError:
        return False
    except FileNotFoundError:
        return True
    return True
