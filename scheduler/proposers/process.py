"""Commands run for a proposer: each under a process reaper that kills all it started; some are spoken to in lines.

Nothing here waits but `end`. What a command prints goes to a capped file. Not covered: what the lines mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from scheduler.domain.errors import ProposerProblem
from scheduler.domain.text import one_line
from scheduler.node.code import python_command

END_WAIT_S = 30.0
SHOWN_BYTES = 16 * 1024
SHOWN_CHARACTERS = 200  # of the last line in a reason
_REPORT_BYTES = 1 << 16
_CHUNK = 1 << 16
_CHUNKS_AT_A_TIME = 64


NOT_RUN = (126, 127)  # a shell's exit codes for a command that cannot be run or is not there


def path_with_arsched() -> str:
    """PATH, with the folder of this very installation's `arsched` in front."""
    places = (Path(sys.argv[0]).absolute().parent, Path(sys.executable).parent, Path(sysconfig.get_path("scripts")))
    own = next((str(place) for place in places if os.access(place / "arsched", os.X_OK)), None)
    there = os.environ.get("PATH", os.defpath)
    return there if own is None else f"{own}{os.pathsep}{there}"


def ensure_runnable(command: str, name: str) -> None:
    """See that the program a shell command begins with is there; relative paths and shell syntax are not looked into.

    Raises ProposerProblem for the proposer `name`.
    """
    try:
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        return  # the shell says what is wrong with it
    program = next((word for word in words if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", word)), "")
    if not re.fullmatch(r"/?[A-Za-z0-9_][\w./+-]*", program) or ("/" in program and not program.startswith("/")):
        return
    path = path_with_arsched()
    if shutil.which(program, path=path) is None:
        known = ["/bin/sh", "-c", 'command -v "$1"', "sh", program]  # a word of the shell itself, like `exec`
        done = subprocess.run(known, env={**os.environ, "PATH": path}, capture_output=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            where = "there is no program" if program.startswith("/") else "there is no program on the PATH called"
            hint = f"see that `{program}` works in this shell, or give another command"
            raise ProposerProblem(f"the command of {name} cannot be run: {where} {program}", hint)


class EndKind(StrEnum):
    EXIT = "exit"  # the command ended by itself
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    LOST = "lost"  # the reaper died, or could not do its work


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """`code` is the exit code, negative for a signal; `problem` says why it is lost.

    `left` counts the processes that were still there when the command had ended by itself.
    """

    how: EndKind
    code: int = 0
    problem: str = ""
    left: int = 0


class ManagedProcess:
    """One command under its reaper. Dies with this process, however that dies."""

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
        view: str = "",
    ) -> None:
        """`pipes` are the command's input and output; None: no input, the output to the log.

        `view`: JSON of what the command may not change or see (scheduler.proposers.guard); "" leaves it free.
        Raises ProposerProblem.
        """
        self.log = log.absolute()  # the command runs in a folder of its own
        self._owner, theirs = socket.socketpair()
        options = [
            f"--owner={theirs.fileno()}",
            f"--log={self.log}",
            f"--limit-s={limit_s}",
            f"--containment={containment}",
            *([f"--view={view}"] if view else []),
        ]
        through, (stdin, stdout) = (["--through"], pipes) if pipes else ([], (subprocess.DEVNULL, subprocess.DEVNULL))
        try:
            self._process = subprocess.Popen(
                [*python_command("harness.process_reaper"), *options, *through, "--", *command],
                cwd=folder, env=environment, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        except OSError as problem:
            self._owner.close()
            raise ProposerProblem(f"cannot start {command[0]}: {problem}", "is there memory and disk left?") from None
        finally:
            theirs.close()
        self._owner.setblocking(False)
        self._end: ProcessEnd | None = None

    def poll(self) -> ProcessEnd | None:
        """How it ended; None while it lives."""
        if self._end is None and self._process.poll() is not None:
            self._end = self._read_report()
            self._owner.close()
        return self._end

    def ask_to_end(self) -> None:
        """Have the reaper kill everything; does not wait for it."""
        if self.poll() is None:
            with contextlib.suppress(OSError):
                self._owner.shutdown(socket.SHUT_WR)

    def end(self) -> ProcessEnd:
        """Kill the command and all it started; returns when they are dead."""
        self.ask_to_end()
        if self.poll() is None:
            try:
                self._process.wait(END_WAIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self.poll() or ProcessEnd(EndKind.LOST)

    def printed(self) -> str:
        """The last of what it printed, as text, not cleaned."""
        return read_tail(self.log)

    def _read_report(self) -> ProcessEnd:
        data = b""
        with contextlib.suppress(OSError):
            data = self._owner.recv(_REPORT_BYTES)
        try:
            report = json.loads(data)
            how, code, problem = str(report["what"]), int(report["code"]), str(report["problem"])
            left = int(report["left"])
        except (ValueError, KeyError, TypeError):
            return ProcessEnd(EndKind.LOST, problem="its process reaper was killed")
        if how in (EndKind.EXIT, EndKind.TIMEOUT, EndKind.STOPPED):
            return ProcessEnd(EndKind(how), code, left=left)
        return ProcessEnd(EndKind.LOST, problem=problem or f"it is {how}")


class LineTooLong(Exception):
    """It wrote more than the limit without ending the line; `start` is how it began."""

    def __init__(self, start: bytes) -> None:
        super().__init__()
        self.start = start


class LineProcess:
    """A shell command spoken to in lines: bytes go out as it takes them, lines come as it ends them.

    Making one raises ProposerProblem, OSError.
    """

    def __init__(self, command: str, *, log: Path, folder: Path, environment: Mapping[str, str], limit: int) -> None:
        self._limit = limit
        self._out, self._in = bytearray(), bytearray()
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        try:
            shell = ["/bin/sh", "-c", command]
            pipes = (theirs_in, theirs_out)
            self._process = ManagedProcess(shell, log=log, folder=folder, environment=environment, pipes=pipes)
        except BaseException:
            self._close_pipes()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def send(self, line: bytes) -> None:
        self._out += line
        self._flush()

    def lines(self) -> list[bytes]:
        """Lines that have come since, without their ends. Raises LineTooLong."""
        self._flush()
        with contextlib.suppress(BlockingIOError, OSError):
            for _ in range(_CHUNKS_AT_A_TIME):  # one that never stops writing must not stop us
                data = os.read(self._from, _CHUNK)
                self._in += data
                if not data:
                    break
        *whole, rest = bytes(self._in).split(b"\n")
        self._in = bytearray(rest)
        for line in (*whole, rest):
            if len(line) > self._limit:
                raise LineTooLong(line)
        return [line for line in whole if line.strip()]

    def poll(self) -> ProcessEnd | None:
        """How it ended; None while it lives."""
        return self._process.poll()

    def end(self) -> None:
        """Kill the command and all it started; returns when they are dead."""
        self._process.end()
        self._close_pipes()

    def _flush(self) -> None:
        """As much as it takes now. A process that reads no more is noticed by its end or by a limit."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._out:
                del self._out[: os.write(self._to, self._out[:_CHUNK])]

    def _close_pipes(self) -> None:
        for descriptor in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def read_tail(path: Path, limit: int = SHOWN_BYTES) -> str:
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


def last_line(text: str) -> str:
    """The last line with something in it, on one line and cut; "" without any."""
    lines = [line for line in map(one_line, text.splitlines()) if line]
    return lines[-1][:SHOWN_CHARACTERS] if lines else ""
