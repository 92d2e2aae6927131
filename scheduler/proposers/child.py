"""A command started under a keeper, seen from its owner: started, asked how it is, ended. Nothing here waits but `end`.

What the command prints goes to a capped file. Does not talk to the command; whoever wants to gives it pipes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from scheduler.domain.errors import ProposerProblem

KEEPER = (sys.executable, "-P", "-m", "harness.process_reaper")  # -P: not the harness that the worktree holds
END_WAIT_S = 30.0
SHOWN_BYTES = 16 * 1024
_REPORT_BYTES = 1 << 16


class How(StrEnum):
    EXIT = "exit"  # the command ended by itself
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    LOST = "lost"  # the keeper died, or could not do its work


@dataclass(frozen=True, slots=True)
class Ending:
    """`code` is the exit code, negative for a signal; `problem` says why it is lost.

    `left` counts the processes that were still there when the command had ended by itself.
    """

    how: How
    code: int = 0
    problem: str = ""
    left: int = 0


class Child:
    """One command under its keeper. Dies with this process, however that dies."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        limit_s: float = 0.0,
        pipes: tuple[int, int] | None = None,
        containment: str = "auto",
    ) -> None:
        """`pipes` are the command's input and output; None: no input, the output to the log. Raises ProposerProblem."""
        self.log = log.absolute()  # the command runs in a folder of its own
        self._owner, theirs = socket.socketpair()
        options = [
            f"--owner={theirs.fileno()}",
            f"--log={self.log}",
            f"--limit-s={limit_s}",
            f"--containment={containment}",
        ]
        through, (stdin, stdout) = (["--through"], pipes) if pipes else ([], (subprocess.DEVNULL, subprocess.DEVNULL))
        try:
            self._process = subprocess.Popen(
                [*KEEPER, *options, *through, "--", *command],
                cwd=folder, env=environment, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        except OSError as problem:
            self._owner.close()
            raise ProposerProblem(f"cannot start {command[0]}: {problem}", "is there memory and disk left?") from None
        finally:
            theirs.close()
        self._owner.setblocking(False)
        self._said = b""
        self._ending: Ending | None = None

    def poll(self) -> Ending | None:
        """How it ended; None while it lives."""
        if self._ending is None and self._process.poll() is not None:
            self._ending = self._read_report()
            self._owner.close()
        return self._ending

    def ask_to_end(self) -> None:
        """Have the keeper kill everything; does not wait for it."""
        if self.poll() is None:
            with contextlib.suppress(OSError):
                self._owner.shutdown(socket.SHUT_WR)

    def end(self) -> Ending:
        """Kill the command and all it started; returns when they are dead."""
        self.ask_to_end()
        if self.poll() is None:
            try:
                self._process.wait(END_WAIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self.poll() or Ending(How.LOST)

    def printed(self, limit: int = SHOWN_BYTES) -> str:
        """The last of what it printed, as text, not cleaned."""
        return tail(self.log, limit)

    def _read_report(self) -> Ending:
        with contextlib.suppress(OSError):
            self._said += self._owner.recv(_REPORT_BYTES)
        try:
            report = json.loads(self._said)
            how, code, problem = str(report["what"]), int(report["code"]), str(report["problem"])
            left = int(report["left"])
        except (ValueError, KeyError, TypeError):
            return Ending(How.LOST, problem="its keeper was killed")
        if how in (How.EXIT, How.TIMEOUT, How.STOPPED):
            return Ending(How(how), code, left=left)
        return Ending(How.LOST, problem=problem or f"it is {how}")


def tail(path: Path, limit: int) -> str:
    """The last `limit` bytes of a file from a whole line on, as text; "" without a file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            data = file.read()
    except OSError:
        return ""
    if size > limit:
        data = data.partition(b"\n")[2] or data
    return data.decode("utf-8", "replace")


def last_line(text: str, limit: int = 200) -> str:
    """The last line with something in it, without control characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join("".join(c if c.isprintable() else " " for c in lines[-1]).split())[:limit] if lines else ""
