"""Files and folders that appear whole or not at all, and the folder that all caches of this node lie in.

Covers: writing under a temporary name, flushing to disk, renaming, clearing what an interrupted call left. Not covered:
which files there are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".partial"
HOMELESS = Path("/var/tmp")  # on a disk, and kept over a restart
# File systems that several nodes may have mounted; fuse.* too (sshfs, gcsfuse, juicefs, mergerfs of any of them).
_SHARED = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "gfs2", "ocfs2", "9p",
    "afs", "virtiofs", "wekafs", "panfs", "orangefs", "pvfs2", "vboxsf",
})  # fmt: skip
_COPIED_AT_ONCE = 1 << 30


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Folder of all caches: $ARSCHED_CACHE, else $XDG_CACHE_HOME/arsched, else ~/.cache/arsched.

    A relative XDG_CACHE_HOME is ignored, as its specification says. A user without a home has a private folder in
    /var/tmp, which is made. Raises PermissionError where that is another's.
    """
    if own := environ.get("ARSCHED_CACHE"):
        return Path(os.path.expanduser(own)).absolute()
    if os.path.isabs(shared := environ.get("XDG_CACHE_HOME", "")):
        return Path(shared, "arsched")
    home = home_folder(environ)
    return home / ".cache" / "arsched" if home else node_folder()


def settle_folders(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make what ARSCHED_CACHE and ARSCHED_SPOOL name absolute, for programs started from here in other folders."""
    for name in ("ARSCHED_CACHE", "ARSCHED_SPOOL"):
        if given := environ.get(name):
            with contextlib.suppress(OSError):  # the current folder is gone
                environ[name] = os.path.abspath(os.path.expanduser(given))


def home_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """HOME, else what the system knows of this user; None for a user id without a name. Never a relative path."""
    if os.path.isabs(home := environ.get("HOME", "")):
        return Path(home)
    with contextlib.suppress(KeyError):
        if os.path.isabs(home := pwd.getpwuid(os.getuid()).pw_dir):
            return Path(home)
    return None


def node_folder() -> Path:
    """A private folder of this user on this node's own disk, which is made."""
    return _private_folder(HOMELESS / f"arsched-{os.geteuid()}")


def is_shared(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a path is, or will be, on a file system that other nodes may see as well; False where nothing says so.

    Format of the list: man 5 proc_pid_mountinfo. Later lines cover earlier ones.
    """
    real, found, kind = os.path.realpath(path), "", ""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])  # of blanks
            if len(point) >= len(found) and os.path.commonpath([point, real]) == point:
                found, kind = point, after.split()[0]
    return kind in _SHARED or kind.startswith("fuse.")


def _private_folder(path: Path) -> Path:
    """Anyone may write next to it, so what another user made there first is refused."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(errno.EACCES, "not a folder of this user's alone", str(path))
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` when the block ends well, and nowhere when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file's content to `target`, by reference where the file system can. Raises OSError."""
    with source.open("rb") as read, whole_file(target) as write:
        with contextlib.suppress(OSError, AttributeError):  # two file systems, an old kernel, or not Linux
            while os.copy_file_range(read.fileno(), write.fileno(), _COPIED_AT_ONCE):
                pass
        shutil.copyfileobj(read, write)  # what is left, mostly nothing


def write_atomic(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data` in one step, making its folder; several processes may do so at once.

    `durable`: it shall outlive a power cut. Raises OSError and leaves nothing when the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode("utf-8", "replace") if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill that appears at `path` when the block ends well."""
    temporary = path.with_name(path.name + PARTIAL_SUFFIX)
    remove_tree(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file, os.O_RDONLY)
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(temporary)
        raise


def remove_tree(path: Path) -> None:
    """Remove a folder of ours, read-only files included; nothing there is fine."""
    if path.exists():
        shutil.rmtree(path)


def sync_folder(path: Path) -> None:
    """Have the names in a folder survive a power cut."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
