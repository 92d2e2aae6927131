"""Which levels of the sandbox this machine allows, tried the whole way in child processes, self-test included."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable

from harness.containment import ContainmentError, contain
from harness.sandbox import kernel, landlock
from harness.sandbox.confinement import Confinement, Level, SandboxError, enter
from harness.sandbox.self_test import self_test
from harness.sandbox.view import ViewFacts, candidate_view

_MOST_BYTES = 4096


def levels_here() -> dict[str, object]:
    """full, weak: "" or the reason why this machine does not allow it; landlock_abi: 0 without Landlock."""
    return {"full": why_not("full"), "weak": why_not("weak"), "landlock_abi": landlock.version()}


def why_not(level: Level) -> str:
    """Why the level cannot be had here; "" when it can."""
    scratch = tempfile.mkdtemp(prefix="sandbox-")
    try:
        return _in_child(lambda: _try_contained(level, os.path.realpath(scratch)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _try_contained(level: Level, scratch: str) -> str:
    if level != "full":
        return _try(level, scratch)
    readable, writable = os.pipe()

    def body(_containment: str) -> int:
        os.write(writable, _in_child(lambda: _try(level, scratch)).encode() or b"\0")
        return 0

    try:
        contain("namespace", body)
    except (ContainmentError, OSError) as error:
        return str(error)
    os.close(writable)
    return os.read(readable, _MOST_BYTES).decode("utf-8", "replace").strip("\0")


def _try(level: Level, scratch: str) -> str:
    """Confine this process as a candidate that has nothing of its own; its parent plays the judge."""
    harness = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    facts = ViewFacts(
        harness=harness, executable=sys.executable, prefixes=(sys.prefix, sys.base_prefix), import_path=(),
        environment={}, scratch=scratch, out=f"{scratch}/out", cache_root=f"{scratch}/cache", cache_files=(),
    )  # fmt: skip
    own = os.path.join(harness, "__init__.py")
    confinement = Confinement(level, os.getppid(), scratch, candidate_view(facts), unwritable=(own,))
    try:
        os.chdir(scratch)
        enter(confinement)
        self_test(confinement)
    except (SandboxError, OSError) as error:
        return str(error)
    return ""


def _in_child(act: Callable[[], str]) -> str:
    """What `act` returns, run in a child that then ends; this process is out of its reach as a judge is."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = "it ended early"
        with contextlib.suppress(BaseException):
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # its parent may have given that up already
            answer = act()
        os.write(writable, answer.encode() or b"\0")
        os._exit(0)
    os.close(writable)
    kernel.forbid_dumping()
    try:
        answer = os.read(readable, _MOST_BYTES).decode("utf-8", "replace") or "it died"
    finally:
        os.close(readable)
        os.waitpid(pid, 0)
    return answer.strip("\0")
