"""Builds a contract's cache by running the referee's own program, on the same terminal.

Signals reach it first: it keeps what is finished and says so, and its exit code is ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from scheduler.domain.errors import LabProblem
from scheduler.node.judge_environment import CODE_ROOT, site_folders


def prepare_command(contract: str, brought: Path | None, *, as_json: bool, verify: bool) -> list[str]:
    """-P: a folder called harness where the command is run is not the referee."""
    command = [sys.executable, "-P", "-m", "harness.prepare", "--contract", contract]
    command += ["--from", str(brought)] if brought else []
    return command + ["--verify"] * verify + ["--json"] * as_json


def run_program(command: Sequence[str]) -> int:
    """Run a program of the referee on our terminal. Returns its exit code, 130 when a signal ended it."""
    path = [str(CODE_ROOT), *site_folders(os.environ.get("PYTHONPATH", ""))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    try:
        with subprocess.Popen(command, env=environment) as process, _signals_to(process) as heard:
            code = process.wait()
    except OSError as problem:
        raise LabProblem(f"{command[0]} cannot be run: {problem.strerror}") from None
    return 130 if code < 0 or heard else code


@contextmanager
def _signals_to(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Ctrl-C reaches both of us from the terminal, and the program answers it; SIGTERM comes to us alone.

    Gives the signals heard so far: one that comes when the program has just ended is not lost.
    """
    heard: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if number != signal.SIGINT:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
