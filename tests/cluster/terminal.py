"""Hosts made by hosts.sh, as from terminals: commands typed on them, what is printed there, waiting for conditions.

Prints what a user sees. Not covered: which commands, and what they must do (tests/cluster/run.py).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("hosts.sh")
BASE = Path(os.environ.get("ARSCHED_HOSTS") or Path(tempfile.gettempdir(), "arsched-hosts"))
WHEELS = Path(os.environ.get("WHEELS") or BASE / "wheels")
WORKERS = ("10.99.0.12", "10.99.0.13")
USER = "rig"  # who logs in on the hosts (hosts.sh)
NODES = {"h1": "10.99.0.11", "h2": "10.99.0.12", "h3": "10.99.0.13"}
PATIENCE_S = 900.0  # for any one condition on a loaded machine


class Trial:
    """One call of this program: what was promised and not kept."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def promise(self, kept: object, words: str) -> None:
        print(f"   {'kept  ' if kept else 'BROKEN'} {words}", flush=True)
        if not kept:
            self.broken.append(words)


class Said(NamedTuple):
    code: int
    text: str


def hosts(
    *words: str, quiet: bool = False, timeout_s: float = 3 * PATIENCE_S, environ: dict[str, str] | None = None
) -> Said:
    done = subprocess.run(
        ["bash", str(SCRIPT), *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, timeout=timeout_s, env=surroundings() | (environ or {}), errors="replace",
    )  # fmt: skip
    if done.returncode and not quiet:
        print(done.stdout, flush=True)
        raise SystemExit(f"hosts.sh {' '.join(words[:2])} failed")
    return Said(done.returncode, done.stdout)


def surroundings() -> dict[str, str]:
    return {**os.environ, "ARSCHED_HOSTS": str(BASE), "WHEELS": str(WHEELS)}


def typed(command: str) -> str:
    """As in a shell that has read ~/.bashrc; its complaints about a missing terminal are not the user's."""
    quoted = command.replace("'", "'\\''")
    return f"bash -ic '{quoted}' 2> >(grep --line-buffered -v 'job control\\|terminal process group' >&2)"


def on(host: str, command: str, *, show: int = 40, folder: str = "~") -> Said:
    """Type a command on a host and print the last `show` lines of what its user sees."""
    print(f"{host}:{folder}$ {command}", flush=True)
    begun = time.monotonic()
    said = hosts("on", host, typed(f"cd {folder} && {command}"), quiet=True)
    print_tail(said.text, show)
    print(f"   [exit code {said.code}, {time.monotonic() - begun:.0f} s]", flush=True)
    return said


def print_tail(text: str, most: int) -> None:
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in text.replace("\r", "\n").splitlines()]
    lines = [line for line in lines if line.strip()]
    if len(lines) > most:
        print(f"   | … {len(lines) - most} lines before")
    print("".join(f"   | {line}\n" for line in lines[-most:]), end="", flush=True)


def ask(host: str, command: str) -> str:
    """What a command prints, unseen by the user."""
    return hosts("on", host, typed(command), quiet=True).text


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> float | None:
    """Seconds until it holds; None when it never did."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > timeout_s:
            print(f"   gave up after {timeout_s:.0f} s: {what}", flush=True)
            return None
        time.sleep(2)
    print(f"   {time.monotonic() - begun:.0f} s: {what}", flush=True)
    return time.monotonic() - begun


class Command:
    """A command that goes on while things happen to it; its output is printed as it comes at `show`."""

    def __init__(self, host: str, command: str, folder: str) -> None:
        print(f"{host}:{folder}$ {command}   (goes on meanwhile)", flush=True)
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._shown = 0
        self._process = subprocess.Popen(
            ["bash", str(SCRIPT), "on", host, typed(f"cd {folder} && {command}")], stdin=subprocess.DEVNULL,
            stdout=self._log, stderr=subprocess.STDOUT, env=surroundings(), text=True,
        )  # fmt: skip

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def text(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def show(self, most: int = 60) -> str:
        """All that is new is returned; of what is printed, lines that only count the seconds are left out."""
        new = self.text()[self._shown :]
        self._shown += len(new)
        print_tail(re.sub(r"^ +\d+ s  .*\n", "", new, flags=re.M), most)
        return new

    def end(self) -> int:
        wait_for(lambda: self.ended, "the command ended", 4 * PATIENCE_S)
        if not self.ended:
            self._process.kill()
        self.show()
        print(f"   [exit code {self._process.wait()}]", flush=True)
        return self._process.returncode
