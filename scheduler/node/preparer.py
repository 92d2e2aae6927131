"""Prepares this node for a contract on behalf of another: takes over its cache, then runs the harness's program.

The program checks every byte of what arrived and makes what is this node's own (attention kernel, GPU trial, work
clock). Made by scheduler.ray.preparation as an actor on each node. Linux.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.files import cache_root, settle_folders
from scheduler.domain.errors import PoolProblem
from scheduler.node.code import CODE_ROOT, python_command

ARRIVING = "arriving-"  # folders below the cache root
ABANDONED_S = 86400.0
TAIL_LINES = 12
WAIT_S = 1.0  # for news, in one call
READ_S = 10.0  # for the last words of a program that has ended


@dataclass(frozen=True, slots=True)
class PrepareState:
    """`line`: the program's last. `code`: its exit code, None while it runs. `answer`: what it printed as JSON."""

    line: str
    code: int | None
    answer: str
    tail: str


class NodePreparer:
    """One preparation on one node. `receive` any number of times, `begin` once, then `poll`."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._answer = ""
        self._reader: threading.Thread | None = None

    def has_cache(self, name: str) -> bool:
        """Whether a cache of that folder name is there: made here, or seen through a shared file system.

        By its files' names and sizes, as the program looks at them before it begins anew: one that lost some is copied
        again, because this node may have no other way to them.
        """
        folder = cache_root() / name
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
            return all((folder / path).stat().st_size == entry["bytes"] for path, entry in files.items())
        return False

    def receive(self, name: str, data: bytes) -> None:
        """Append to a file of what arrives. Raises PoolProblem when the disk refuses."""
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise PoolProblem(f"{name!r} is no file of a cache")
        try:
            if self._folder is None:
                cache_root().mkdir(parents=True, exist_ok=True)
                _remove_abandoned(cache_root())
                self._folder = Path(tempfile.mkdtemp(prefix=ARRIVING, dir=cache_root()))
            path = self._folder / parts
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)
        except OSError as problem:
            hint = "make room or let this user write there, or set ARSCHED_CACHE to another folder"
            raise PoolProblem(f"{cache_root()} cannot be written: {problem.strerror or problem}", hint) from None

    def begin(self, contract_json: str, options: tuple[str, ...]) -> None:
        """Start the harness's program; with what arrived, if something did."""
        handle, contract = tempfile.mkstemp(prefix="arsched-contract-", suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(contract_json)
        brought = ("--from", str(self._folder)) if self._folder else ()
        # Ray hides every GPU from an actor that asked for none, and this one tries them.
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        settle_folders(environment)
        environment["PYTHONPATH"] = os.pathsep.join([str(CODE_ROOT), *filter(None, [environment.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [*python_command("harness.prepare"), "--contract", contract, *brought, *options, "--json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            env=environment, cwd="/",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(self._process, Path(contract)), daemon=True)
        self._reader.start()

    def poll(self) -> PrepareState:
        """Wait a moment for the end and say how far it is."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(WAIT_S)
        code = self._process.poll()
        if code is not None:
            self._finish()
        lines = list(self._lines)
        return PrepareState(lines[-1] if lines else "", code, self._answer, "\n".join(lines))

    def stop(self) -> None:
        """End the program, which keeps what is finished, and remove what arrived."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(WAIT_S)
        self._finish()

    def _finish(self) -> None:
        """All that it said is read, and what arrived is removed."""
        if self._reader is not None:
            self._reader.join(READ_S)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _read(self, process: subprocess.Popen[str], contract: Path) -> None:
        assert process.stderr is not None and process.stdout is not None
        with process.stderr, process.stdout:
            for line in process.stderr:
                self._lines.append(line.rstrip())
            self._answer = process.stdout.read().strip()
        contract.unlink(missing_ok=True)


def _remove_abandoned(root: Path) -> None:
    """What arrived for preparations that were killed; another node's on a shared file system is younger."""
    for folder in root.glob(f"{ARRIVING}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def prepared_digest(state: PrepareState) -> str:
    """The digest of the cache that the program made or found; "" where it says none."""
    with suppress(ValueError, KeyError, TypeError, IndexError):
        return str(json.loads(state.answer.splitlines()[-1])["digest"])
    return ""
