"""Confining this process for good: namespaces and mounts, then capabilities, Landlock and seccomp; each before an exec.

`full` hides what is not in the view, `weak` forbids it without namespaces, `off` does neither. A level is reached whole
or not at all: whoever gets a SandboxError must not go on.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.sandbox import kernel, landlock, seccomp
from harness.sandbox.layout import ViewLayout, lay_out
from harness.sandbox.mounts import make_visible
from harness.sandbox.view import Exposure

Level = Literal["full", "weak", "off"]
LEVELS: tuple[Level, ...] = ("full", "weak", "off")
_NAMESPACES = (
    kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS
)


class SandboxError(Exception):
    """The level cannot be had on this machine, or did not hold when it was tried; the message says why."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What to confine a process to.

    `scratch`: the folder that it works in; `judge_pid`: the process it must not reach; `unreadable`, `unwritable`:
    files outside its rights, which the self-test tries to open.
    """

    level: Level
    judge_pid: int
    scratch: str
    exposures: tuple[Exposure, ...]
    unreadable: tuple[str, ...] = ()
    unwritable: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Confinement:
        fields: dict[str, Any] = json.loads(text)
        fields["exposures"] = tuple(Exposure(**one) for one in fields["exposures"])
        fields |= {name: tuple(fields[name]) for name in ("unreadable", "unwritable")}
        return cls(**fields)


def enter(confinement: Confinement) -> str:
    """Confine this process, which has one thread. Returns what was reached, in words. Raises SandboxError."""
    if confinement.level == "off":
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        return "off"
    full = confinement.level == "full"
    folder = os.getcwd()
    abi = landlock.version()
    if not full and abi < landlock.LEAST_ABI:
        raise SandboxError(f"Landlock version {abi} here, {landlock.LEAST_ABI} (Linux 5.19) is needed")
    with step("reading the disk"):
        layout = lay_out(confinement.exposures)
    if full:
        _enter_namespaces(layout, confinement.scratch)
        os.chdir(folder)
    _give_up_rights(layout, abi, confinement, full=full)
    namespaces = "user, mount, ipc, net, uts namespaces; " if full else ""
    files = f"landlock {abi}" if abi >= landlock.LEAST_ABI else "no landlock"
    return f"{confinement.level}: {namespaces}{files}; seccomp"


def _enter_namespaces(layout: ViewLayout, base: str) -> None:
    uid, gid = os.geteuid(), os.getegid()
    with step("namespaces"):
        kernel.unshare(_NAMESPACES)
    with step("the user namespace's ids"):
        kernel.map_own_ids(uid, gid)
    with step("the loopback interface"):
        kernel.raise_loopback()
    with step("mounts"):
        make_visible(layout, base)


def _give_up_rights(layout: ViewLayout, abi: int, confinement: Confinement, *, full: bool) -> None:
    with step("capabilities"):
        kernel.drop_capabilities()
    with step("no_new_privs"):
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    scoped = False
    if abi >= landlock.LEAST_ABI:
        with step("landlock"):
            handled = landlock.handled(abi, own_network=full)
            rules = landlock.rules_within(layout) if full else landlock.rules_without_mounts(layout)
            landlock.restrict_self(rules, handled, abi)
            scoped = bool(handled.scopes & landlock.SCOPE_SIGNALS)
    with step("seccomp"):
        judge = confinement.judge_pid
        seccomp.install_for(seccomp.rules(namespaces=full, judge_pid=judge, scoped_signals=scoped))


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Raises SandboxError naming the step for an OSError in the block."""
    try:
        yield
    except OSError as error:
        raise SandboxError(f"{name}: {error.strerror or error}") from error
