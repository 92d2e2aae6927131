"""Signals and a terminal reach the child that runs a cluster's queue: each once; a killed command takes it along."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from scheduler.lab import Workspace
from scheduler.queue.runtime import StopReason
from tests.processes import is_running
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab
from tests.scheduler.rejoin_kit import (
    Stage,
    deaf,
    hang,
    played_head,  # noqa: F401
    played_stage,  # noqa: F401
    tag_of,
)
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
# The terminal's Ctrl-C comes between fork and setpgid, and is passed on only once the child has counted its own.
CTRL_C_AT_THE_FORK = """
import os, signal, sys, time
from pathlib import Path
from scheduler.lab import open_workspace
from scheduler.queue import rejoin
from scheduler.queue.forwarding import ForwardedSignals
from scheduler.queue.runtime import PoolHandle, PoolOptions, Runtime

folder, seen = Path(sys.argv[1]), []
set_group, send = os.setpgid, ForwardedSignals._send

def setpgid(*who):
    os.killpg(os.getpgrp(), signal.SIGINT)
    set_group(*who)

def send_late(self, number):
    deadline = time.monotonic() + 1.0
    while not (folder / "counted").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    send(self, number)
    (folder / "passed").touch()

def count(number, frame):
    seen.append(number)
    (folder / "counted").touch()

def work(mine, means, is_again):
    while not (folder / "passed").exists() or not seen:
        time.sleep(0.02)
    time.sleep(0.2)
    return len(seen)

os.setpgid, ForwardedSignals._send = setpgid, send_late
signal.signal(signal.SIGINT, count)
with open_workspace("t", folder) as space:
    handle = PoolHandle(None, True, address="auto")
    means = Runtime(PoolOptions("auto"), connect=lambda *_: handle)
    print(rejoin.run_rejoining(space, means, work, lambda _: 0, print))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait(stage: Stage, number: signal.Signals) -> None:
    stage.head.start()

    def interrupt() -> None:
        wait_until(lambda: len(stage.pids) == 1)
        stage.head.end()
        wait_until(stage.waits)
        os.kill(os.getpid(), number)

    acting = stage.in_the_middle(interrupt)
    assert stage.run(deaf, tag_of) is StopReason.INTERRUPTED
    acting.join()


def test_a_signal_reaches_the_child_once_and_its_handlers_are_its_own(stage: Stage) -> None:
    stage.head.start()

    def count_signals(mine: Workspace) -> int:
        seen: list[int] = []
        signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
        (mine.paths.root / "ready").touch()
        wait_until(lambda: seen)
        signal.sigtimedwait([], 0.3)
        return len(seen)

    def interrupt() -> None:
        wait_until((stage.space.paths.root / "ready").exists)
        os.kill(os.getpid(), signal.SIGINT)

    acting = stage.in_the_middle(interrupt)
    assert stage.run(count_signals) == 1
    acting.join()


def test_ctrl_c_before_the_queue_runs_is_an_interrupt(stage: Stage) -> None:
    stage.head.start()

    def interrupt() -> None:
        wait_until(lambda: len(stage.pids) == 1)
        os.kill(os.getpid(), signal.SIGINT)

    acting = stage.in_the_middle(interrupt)
    with pytest.raises(KeyboardInterrupt):
        stage.run(hang)
    acting.join()


def test_a_killed_command_takes_its_driver_along(stage: Stage, tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        from scheduler.lab import open_workspace
        from scheduler.queue.rejoin import run_rejoining
        from scheduler.queue.runtime import PoolOptions, Runtime
        from pathlib import Path

        def work(mine, means, is_again):
            print(os.getpid(), file=sys.stderr, flush=True)
            signal.pause()

        with open_workspace("t", Path(sys.argv[1])) as space:
            run_rejoining(space, Runtime(PoolOptions("127.0.0.1:1")), work, lambda reason: None, print)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(stage.space.paths.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        child = int(process.stderr.readline())
        process.kill()
    wait_until(lambda: not is_running(child))


ON_A_TERMINAL = """
import os, signal, sys, time
from contextlib import suppress
from pathlib import Path
from scheduler.domain.errors import PoolProblem
from scheduler.lab import open_workspace
from scheduler.queue.progress import open_screen
from scheduler.queue.rejoin import run_rejoining
from scheduler.queue.runtime import Interrupt, PoolHandle, PoolOptions, Runtime

def work(mine, means, is_again):
    means.connect(mine.lab, means.options, print)
    with open_screen(mine.paths.ray_log) as screen, Interrupt() as interrupt:
        os.write(2, b"chatter")
        screen.say(f"ready {type(screen).__name__}, own group {os.getpgrp() == os.getpid()}")
        while not interrupt.finishing:
            time.sleep(0.05)
        time.sleep(0.5)
        screen.say(f"level {interrupt.level}")
    return 0

with open_workspace("t", Path(sys.argv[1])) as space:
    handle = PoolHandle(None, True, address=sys.argv[2])
    run_rejoining(space, Runtime(PoolOptions(sys.argv[2]), connect=lambda *_: handle), work, lambda _: 0, print)
print("the end")
"""


def test_ctrl_c_on_a_terminal_counts_once_and_chatter_stays_away_from_it(stage: Stage) -> None:
    stage.head.start()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", ON_A_TERMINAL, str(stage.space.paths.root), stage.head.address])
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    with suppress(OSError):  # the end of a terminal
        while more := os.read(terminal, 1000):
            seen += more
    os.waitpid(pid, 0)
    os.close(terminal)
    assert (
        b"ready TerminalScreen, own group True" in seen
        and b"level 1" in seen
        and b"the end" in seen
        and b"chatter" not in seen
    )
    assert (stage.space.paths.ray_log).read_text().startswith("chatter")


def test_ctrl_c_between_fork_and_a_group_of_its_own_counts_once(tmp_path: Path) -> None:
    root = PlayedLab(tmp_path).space.paths.root
    words = [sys.executable, "-c", CTRL_C_AT_THE_FORK, str(root)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert done.stdout == "1\n", done.stderr
