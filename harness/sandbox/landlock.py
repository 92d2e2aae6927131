"""Landlock: what of the disk and the network a process and its children may reach, from a layout.

The best that the kernel offers from version (ABI) 2 on: version 1 forbids every rename between folders, which
compilers need. Not covered by any version: stat, chmod, utime, extended attributes, locks.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from harness.sandbox import kernel
from harness.sandbox.layout import ViewLayout

LEAST_ABI = 2
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1, 2
_FILES_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
_READ = EXECUTE | READ_FILE | READ_DIR
WRITE = ((1 << 15) - 1) & ~_READ
_DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEVICE | TRUNCATE
# The folder `harness` is imported from: imports list it. With it the names below, in a checkout, but no content.
_CODE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1


@dataclass(frozen=True, slots=True)
class AccessRule:
    """`rights` at `path` and everything below it."""

    path: str
    rights: int


@dataclass(frozen=True, slots=True)
class Handled:
    """What a ruleset forbids where no rule allows it."""

    files: int
    network: int
    scopes: int

    def pack(self, abi: int) -> bytes:
        """struct landlock_ruleset_attr, in the size that the version knows."""
        fields = [self.files, *([self.network] if abi >= 4 else []), *([self.scopes] if abi >= 6 else [])]
        return struct.pack(f"{len(fields)}Q", *fields)


def handled(abi: int, *, own_network: bool) -> Handled:
    """All that the version can forbid; TCP stays allowed in a network namespace of its own."""
    files = max(mask for least, mask in _FILES_BY_ABI.items() if least <= abi)
    network = BIND_TCP | CONNECT_TCP if abi >= 4 and not own_network else 0
    return Handled(files, network, SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS if abi >= 6 else 0)


def version() -> int:
    """The kernel's Landlock version; 0 where there is none or it is switched off."""
    try:
        return kernel.call("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def rules_within(layout: ViewLayout) -> list[AccessRule]:
    """For a process whose root holds the layout alone: all of it may be read."""
    return [AccessRule("/", _READ), *_writable(layout)]


def rules_without_mounts(layout: ViewLayout, names_in: Callable[[str], Iterable[str]] = os.listdir) -> list[AccessRule]:
    """For a process that sees the whole disk: the layout is what it may read, its covers left out one by one."""
    covers = [place.path for place in layout.places if place.kind == "cover"]
    rules = [rule for place in layout.places if place.kind == "read" for rule in _around(place.path, covers, names_in)]
    rules.append(AccessRule(_CODE, READ_DIR))
    return [*rules, *(rule for rule in _writable(layout) if rule.path != "/tmp")]


def rules_against_writing(
    layout: ViewLayout, names_in: Callable[[str], Iterable[str]] = os.listdir
) -> list[AccessRule]:
    """For a process that may read the whole disk and write where the layout does not say `read` or `cover`.

    In a folder above such a place nothing can be made or removed; what is in it already can be written to.
    """
    closed = [place.path for place in layout.places if place.kind in ("read", "cover")]
    opened = [place.path for place in layout.places if place.kind == "write"]
    return [AccessRule(r.path, WRITE) for path in opened for r in _around(path, closed, names_in) if r.rights == _READ]


def _writable(layout: ViewLayout) -> Iterator[AccessRule]:
    for place in layout.places:
        if place.kind == "device":
            yield AccessRule(place.path, _DEVICE)
        elif place.path.startswith("/proc/"):
            yield AccessRule(place.path, _READ | WRITE_FILE)
        elif place.kind in ("write", "fresh"):
            yield AccessRule(place.path, (1 << 16) - 1)


def _around(path: str, covers: list[str], names_in: Callable[[str], Iterable[str]]) -> Iterator[AccessRule]:
    """Read rights below `path` but for the covers; the names of what lies next to a cover stay visible."""
    if path in covers:
        return
    base = path.rstrip("/")
    if not any(cover.startswith(base + "/") for cover in covers):
        yield AccessRule(path, _READ)
        return
    yield AccessRule(path, READ_DIR)
    for name in names_in(path):
        if not os.path.islink(f"{base}/{name}"):
            yield from _around(f"{base}/{name}", covers, names_in)


def restrict_self(rules: Iterable[AccessRule], what: Handled, abi: int) -> None:
    """Bind this thread and its children to come. Needs no_new_privs. Raises OSError; a missing path is left out."""
    fields = what.pack(abi)
    ruleset = kernel.call("landlock_create_ruleset", fields, len(fields), 0)
    try:
        for rule in rules:
            _add(ruleset, rule, what.files)
        kernel.call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _add(ruleset: int, rule: AccessRule, known: int) -> None:
    try:
        fd = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = rule.rights & known & (known if os.path.isdir(f"/proc/self/fd/{fd}") else _OF_FILES)
        if rights:
            kernel.call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)
