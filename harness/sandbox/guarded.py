"""An agent's command in its user's own surroundings, but for places that it may not change, and others it may not see.

full: read-only mounts and empty folders on top of the disk as it is. weak: Landlock, writing only; covered places can
be read. Both without capabilities and with no_new_privs. Its network, home and devices stay.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from harness.sandbox import kernel, landlock
from harness.sandbox.confinement import Level, SandboxError, step
from harness.sandbox.layout import ViewLayout, lay_out
from harness.sandbox.mounts import cover_up
from harness.sandbox.view import Exposure

_HINT = "(a laxer sandbox: arsched init --sandbox weak)"


@dataclass(frozen=True, slots=True)
class GuardedView:
    """`read_only`, `covered`: files and folders, with all below; `writable`: exceptions within. `folder`: the command
    starts there. What does not exist is left out."""

    level: Level
    folder: str
    read_only: tuple[str, ...]
    covered: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GuardedView:
        fields: dict[str, Any] = json.loads(text)
        fields |= {name: tuple(fields[name]) for name in ("read_only", "covered", "writable")}
        return cls(**fields)


def guard(view: GuardedView) -> None:
    """Confine this process, which has one thread, and its children to come. Raises SandboxError."""
    if view.level == "off":
        return
    exposures = [Exposure("/", "write"), *(Exposure(path, "read") for path in view.read_only)]
    exposures += [*(Exposure(path, "cover") for path in view.covered), *(Exposure(p, "write") for p in view.writable)]
    layout = lay_out(exposures)
    try:
        if view.level == "full":
            _mount(layout)
            os.chdir(view.folder)  # by its path: the descriptor of before leads past the mounts
        with step("capabilities and no_new_privs"):
            kernel.drop_capabilities()
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if view.level == "weak":
            _forbid_writing(layout)
        _try_out(layout)
    except SandboxError as problem:
        raise SandboxError(f"{problem} {_HINT}") from None


def _mount(layout: ViewLayout) -> None:
    uid, gid = os.geteuid(), os.getegid()
    with step("namespaces"):
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    with step("the user namespace's ids"):
        kernel.map_own_ids(uid, gid)
    with step("mounts"):
        cover_up(layout)


def _forbid_writing(layout: ViewLayout) -> None:
    abi = landlock.version()
    if abi < landlock.LEAST_ABI:
        raise SandboxError(f"Landlock version {abi} here, {landlock.LEAST_ABI} (Linux 5.19) is needed")
    with step("landlock"):
        known = landlock.handled(abi, own_network=True).files
        what = landlock.Handled(landlock.WRITE & known, 0, 0)
        landlock.restrict_self(landlock.rules_against_writing(layout), what, abi)


def _try_out(layout: ViewLayout) -> None:
    """Nothing can be made in a folder that is read-only. Raises SandboxError."""
    for place in layout.places:
        if place.kind == "read" and os.path.isdir(place.path):
            probe = f"{place.path}/.sandbox-{os.getpid()}"
            try:
                os.mkdir(probe)
            except OSError:
                continue
            os.rmdir(probe)
            raise SandboxError(f"the sandbox does not hold: {place.path} can be written to")
