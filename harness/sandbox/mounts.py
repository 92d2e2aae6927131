"""A view made true by mounts: a new root that holds what is in a layout and nothing else.

Needs a fresh mount namespace in which this process may mount. What is not to be written to is mounted read-only, with
all mounts below it.
"""

from __future__ import annotations

import contextlib
import os

from harness.sandbox import kernel
from harness.sandbox.layout import ViewLayout
from harness.sandbox.view import Exposure

_ROOT_OPTIONS = "size=4m,nr_inodes=20k,mode=755"
_COVER_OPTIONS = "size=1m,nr_inodes=20k,mode=755"


def make_visible(layout: ViewLayout, base: str) -> None:
    """Make the layout this mount namespace's whole tree. `base`: an existing folder to build it on. Raises OSError."""
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    copies = {place.path: _copy_of(place) for place in layout.places if place.kind in ("read", "write", "device")}
    kernel.mount("none", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, _ROOT_OPTIONS)
    is_folder = {path: os.path.isdir(f"/proc/self/fd/{fd}") for path, fd in copies.items() if fd is not None}
    is_folder |= {place.path: os.path.isdir(place.path) for place in layout.places if place.kind == "cover"}
    previous = os.umask(0o022)
    things: list[Exposure] = [*layout.places, *(Exposure(path, "link", to) for path, to in layout.links.items())]
    # Parents first; a link before what lies at its path's depth, which can never be below it: paths are real.
    for thing in sorted(things, key=lambda one: one.path.count("/")):
        _put(thing, base + thing.path, copies.get(thing.path), folder=is_folder.get(thing.path, True))
    os.umask(previous)
    for place in layout.places:
        if place.kind == "cover":
            kernel.restrict_mount(base + place.path, kernel.ATTR_RDONLY, below=False)
    kernel.restrict_mount(base, kernel.ATTR_RDONLY, below=False)
    kernel.change_root(base)


def cover_up(layout: ViewLayout) -> None:
    """Lay the layout's places over the disk as it is; the root is one of them and stays. Raises OSError."""
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    places = [place for place in layout.places if place.path != "/"]
    copies = {place.path: _copy_of(place) for place in places if place.kind in ("read", "write")}
    for place in places:  # those above others first
        _put(place, place.path, copies.get(place.path), folder=os.path.isdir(place.path))
    for place in places:
        if place.kind == "cover" and os.path.isdir(place.path):
            kernel.restrict_mount(place.path, kernel.ATTR_RDONLY, below=False)


def _copy_of(place: Exposure) -> int | None:
    """A detached mount of the place with the rights it is to have; None when it is gone or may not be reached."""
    try:
        fd = kernel.clone_mount(place.path)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None
    match place.kind:
        case "read":
            kernel.restrict_mount(fd, kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | kernel.ATTR_NODEV)
        case "write":
            kernel.restrict_mount(fd, kernel.ATTR_NOSUID | kernel.ATTR_NODEV)
        case _:
            kernel.restrict_mount(fd, kernel.ATTR_NOSUID)
    return fd


def _put(thing: Exposure, path: str, copy: int | None, *, folder: bool) -> None:
    if thing.kind in ("read", "write", "device") and copy is None:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if thing.kind == "link":
        with contextlib.suppress(FileExistsError):
            os.symlink(thing.options, path)
        return
    if folder:
        os.makedirs(path, exist_ok=True)
    elif not os.path.lexists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    if copy is not None:
        kernel.attach_mount(copy, path)
    elif folder:
        options = thing.options if thing.kind == "fresh" else _COVER_OPTIONS
        kernel.mount("none", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    else:  # a single file that is not to be read
        kernel.attach_mount(kernel.clone_mount("/dev/null"), path)
