"""A cluster's head played by a socket, a lab on it, and the lives that a driver may have: for the rejoining queue.

`stage.screen` is what was said on the children's own screen, `stage.said` what the command itself said.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.domain.errors import HeadGone, PoolProblem
from scheduler.lab import Workspace, read_live
from scheduler.queue import rejoin
from scheduler.queue.rejoin import run_rejoining
from scheduler.queue.runtime import PoolHandle, PoolOptions, Runtime, SchedulerLock
from scheduler.ray.head import Head
from tests.processes import is_running
from tests.scheduler.lab_kit import PlayedLab

SERVER = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print(server.getsockname()[1], flush=True)
    open_ones = []
    while True:
        there, _ = server.accept()
        open_ones.append(there)
        if sys.argv[2] == "answers":
            try:
                there.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
            except OSError:  # who asked has gone
                pass
"""


class PlayedHead:
    """What listens at an address: a head that answers, one that hangs, or nothing."""

    def __init__(self) -> None:
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        self.end()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, how: str = "answers") -> None:
        command = [sys.executable, "-c", SERVER, str(self.port), how]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(name="head")
def played_head() -> Iterator[PlayedHead]:
    played = PlayedHead()
    yield played
    played.end()


class Stage:
    """A lab, and the work that children do in turn: each a function of the lab that plays one life of the driver."""

    def __init__(self, folder: Path, head: PlayedHead) -> None:
        self.played = PlayedLab(folder)
        self.space = self.played.space
        self.head, self.said = head, []  # type: ignore[var-annotated]
        self.lives = folder / "lives"
        self.lives.touch()

    def run(self, *lives: Callable[[Workspace], Any]) -> Any:
        def work(mine: Workspace, means: Runtime, is_again: bool) -> Any:
            number = len(self.lives.read_text().split())
            with self.lives.open("a") as log:
                log.write(f"{os.getpid()} ")
            assert is_again == (number > 0) and mine is not self.space
            means.connect(mine.lab, means.options, self._draw)
            return lives[min(number, len(lives) - 1)](mine)

        handle = PoolHandle(self.played.pool, detached=True, address=self.head.address)
        means = Runtime(PoolOptions(self.head.address), connect=lambda *_: handle)
        return run_rejoining(self.space, means, work, lambda reason: reason, self.said.append)

    def _draw(self, line: str) -> None:
        with (self.lives.parent / "screen").open("a") as screen:
            screen.write(f"{line}\n")

    @property
    def screen(self) -> list[str]:
        path = self.lives.parent / "screen"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def pids(self) -> list[int]:
        return [int(pid) for pid in self.lives.read_text().split()]

    def in_the_middle(self, act: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        return thread

    def waits(self) -> bool:
        live = read_live(self.space.paths.live)
        return live is not None and "waiting" in live.note


@pytest.fixture(name="stage")
def played_stage(tmp_path: Path, head: PlayedHead, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(rejoin, "LOOK_S", 0.1)
    monkeypatch.setattr(rejoin, "RETRY_S", 0.1)
    monkeypatch.setattr(rejoin, "CUT_AFTER_S", {Head.AWAY: 0.5, Head.SILENT: 60.0})
    made = Stage(tmp_path, head)
    yield made
    assert not any(is_running(pid) for pid in made.pids)
    assert SchedulerLock(made.space.paths.scheduler_lock).try_take()


def tag_of(mine: Workspace) -> str:
    return mine.tag


def abort(mine: Workspace) -> None:
    faulthandler.disable()
    os.abort()


def hang(mine: Workspace) -> None:
    while True:
        signal.pause()


def deaf(mine: Workspace) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    hang(mine)


def lose_head(mine: Workspace) -> None:
    raise HeadGone("gone")


def find_no_slot(mine: Workspace) -> None:
    raise PoolProblem("none of 2 slots can run it")


def be_killed(mine: Workspace) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
