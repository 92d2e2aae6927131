"""A queue on a cluster goes on when the cluster's head comes back: the decision, and the processes without Ray.

Heads are sockets of the test; the work of a child is played. Real heads: tests/ray/test_ray_head_restarts.py.
"""

from __future__ import annotations

import faulthandler
import os
import pty
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scheduler.domain.errors import HeadGone, LabProblem, PoolProblem
from scheduler.lab import Workspace, read_live
from scheduler.queue import rejoin
from scheduler.queue.rejoin import MOST_CRASHES, NODES_BACK_S, ChildEnd, Word, goes_on, run_rejoining
from scheduler.queue.runtime import PoolHandle, PoolOptions, Runtime, SchedulerLock, StopReason
from scheduler.ray.head import Head, look_for_head
from tests.ray.ray_head import is_running
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab
from tests.waiting import wait_until

BAD = PoolProblem("none of 2 slots can run it")
ENDS = {
    "a result": (ChildEnd(Word.RESULT), False),
    "the head went": (ChildEnd(Word.GONE), True),
    "Ray aborted": (ChildEnd(Word.NOTHING, -signal.SIGABRT), True),
    "Ray left": (ChildEnd(Word.NOTHING, 1), True),
    "Ray crashed": (ChildEnd(Word.NOTHING, -signal.SIGSEGV), True),
    "it hung without a head": (ChildEnd(Word.NOTHING, -signal.SIGKILL, cut=True), True),
    "a person killed it": (ChildEnd(Word.NOTHING, -signal.SIGKILL), False),
    "Ctrl-C three times": (ChildEnd(Word.NOTHING, 130), False),
    "no cluster at first": (ChildEnd(Word.PROBLEM, joined=False, problem=BAD), False),
    "Ray aborted before it joined": (ChildEnd(Word.NOTHING, -signal.SIGABRT, joined=False), False),
    "no slot at first": (ChildEnd(Word.PROBLEM, problem=BAD), False),
    "no slot yet": (ChildEnd(Word.PROBLEM, problem=BAD, since_back_s=0.0), True),
    "not joined yet": (ChildEnd(Word.PROBLEM, joined=False, problem=BAD, since_back_s=9.0), True),
    "no slot for long": (ChildEnd(Word.PROBLEM, problem=BAD, since_back_s=NODES_BACK_S), False),
    "the lab's own trouble": (ChildEnd(Word.PROBLEM, problem=LabProblem("no"), since_back_s=1.0), False),
}


@pytest.mark.parametrize("name", ENDS)
def test_only_what_the_cluster_did_is_a_reason_to_go_on(name: str) -> None:
    end, again = ENDS[name]
    assert goes_on(end, 1, is_asked_to_end=False) is again
    assert not goes_on(end, 1, is_asked_to_end=True)


def test_a_driver_that_keeps_crashing_is_given_up() -> None:
    end = ChildEnd(Word.NOTHING, -signal.SIGABRT)
    assert goes_on(end, MOST_CRASHES - 1, is_asked_to_end=False)
    assert not goes_on(end, MOST_CRASHES, is_asked_to_end=False)


SERVER = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print(server.getsockname()[1], flush=True)
    open_ones = []
    while True:
        there, _ = server.accept()
        open_ones.append(there)
        if sys.argv[2] == "answers":
            there.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
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

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture
def head() -> Iterator[PlayedHead]:
    played = PlayedHead()
    yield played
    played.end()


def test_a_head_is_there_hangs_or_is_away(head: PlayedHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.ray.head.ANSWER_S", 0.3)
    assert look_for_head(head.address) is Head.AWAY
    head.start()
    assert look_for_head(head.address) is Head.THERE
    head.end()
    head.start("hangs")
    assert look_for_head(head.address) is Head.SILENT
    assert look_for_head("auto") is Head.THERE


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
            means.connect(mine.lab, means.options, lambda line: None)
            return lives[min(number, len(lives) - 1)](mine)

        handle = PoolHandle(self.played.pool, detached=True, address=self.head.address)
        means = Runtime(PoolOptions(self.head.address), connect=lambda *_: handle)
        return run_rejoining(self.space, means, work, lambda reason: reason, self.said.append)

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


@pytest.fixture
def stage(tmp_path: Path, head: PlayedHead, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
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


def test_what_the_work_returns_or_raises_is_returned_or_raised(stage: Stage) -> None:
    stage.head.start()
    assert stage.run(tag_of) == "t"
    stage.lives.write_text("")
    with pytest.raises(PoolProblem, match="none of 2 slots"):
        stage.run(find_no_slot)
    assert stage.said == []


def test_a_head_that_goes_while_it_is_joined_for_the_first_time_is_the_answer(stage: Stage) -> None:
    def connect(*_: object) -> PoolHandle:
        raise HeadGone("the head is gone")

    means = Runtime(PoolOptions(stage.head.address), connect=connect)
    with pytest.raises(HeadGone, match="the head is gone"):
        run_rejoining(stage.space, means, lambda mine, means, _: means.connect(mine.lab, means.options, print),
                      lambda reason: None, stage.said.append)  # fmt: skip


def test_the_work_has_no_process_of_its_own_without_a_cluster(stage: Stage) -> None:
    pid = run_rejoining(stage.space, Runtime(), lambda *_: os.getpid(), lambda reason: 0, stage.said.append)
    assert pid == os.getpid()


@pytest.mark.parametrize("life", [abort, lose_head])
def test_a_driver_that_the_clusters_restart_ends_is_followed_by_another(
    stage: Stage, life: Callable[[Workspace], None]
) -> None:
    stage.head.start()
    assert stage.run(life, life, find_no_slot, tag_of) == "t"
    assert len(set(stage.pids)) == 4
    assert sum("was restarted" in line and "nothing is lost" in line for line in stage.said) == 2
    assert sum("not yet: none of 2 slots" in line for line in stage.said) == 1


class WrongClusterID(Exception):
    """As Ray raises from any call after its head was restarted."""


def meet_another_session(mine: Workspace) -> None:
    raise WrongClusterID("the client is accessing GCS after it has restarted")


def test_an_exception_of_rays_is_for_its_log_not_for_the_screen(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(WrongClusterID, "__module__", "ray.exceptions")
    stage.head.start()
    assert stage.run(meet_another_session, tag_of) == "t"
    assert len(stage.said) == 1 and "was restarted" in stage.said[0]
    assert capfd.readouterr() == ("", "")
    written = stage.space.paths.ray_log.read_text()
    assert "Traceback" in written and "accessing GCS" in written


def test_a_driver_that_hangs_without_a_head_is_ended_and_the_queue_waits_for_it(stage: Stage) -> None:
    stage.head.start()

    def restart() -> None:
        wait_until(lambda: len(stage.pids) == 1)
        stage.head.end()
        wait_until(stage.waits)
        stage.head.start()

    acting = stage.in_the_middle(restart)
    assert stage.run(deaf, tag_of) == "t"
    acting.join()
    gone, back = stage.said
    assert "is gone; nothing is lost" in gone and "ray up cluster.yaml" in gone
    assert "answers after" in back
    assert not stage.space.paths.live.exists()


def test_the_wait_holds_the_queues_lock_and_ends_by_the_stop_file(stage: Stage) -> None:
    stage.head.start()
    locked: list[bool] = []

    def stop() -> None:
        wait_until(lambda: len(stage.pids) == 1)
        stage.head.end()
        wait_until(stage.waits)
        locked.append(not SchedulerLock(stage.space.paths.scheduler_lock).try_take())
        stage.space.paths.stop.touch()

    acting = stage.in_the_middle(stop)
    assert stage.run(hang, tag_of) is StopReason.STOPPED
    acting.join()
    assert locked == [True] and not stage.space.paths.stop.exists() and len(stage.pids) == 1


def test_the_wait_has_the_queues_lock_before_it_is_said_and_its_live_file_stays_until_the_end(stage: Stage) -> None:
    """So that `arsched stop` finds it at any time."""
    stage.head.start()
    is_free: list[bool] = []

    class Listener(list[str]):
        def append(self, line: str) -> None:
            super().append(line)
            lock = SchedulerLock(stage.space.paths.scheduler_lock)
            is_free.append(lock.try_take())
            lock.release()

    def is_shown(mine: Workspace) -> bool:
        return mine.paths.live.exists()

    stage.said = Listener()
    assert stage.run(lose_head, is_shown) is True
    assert is_free == [False]
    assert not stage.space.paths.live.exists()


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


def test_a_driver_that_a_person_kills_is_not_begun_again(stage: Stage) -> None:
    stage.head.start()
    with pytest.raises(PoolProblem, match="ended by signal 9"):
        stage.run(be_killed, tag_of)
    assert len(stage.pids) == 1


def test_a_driver_that_crashes_again_and_again_is_given_up(stage: Stage) -> None:
    stage.head.start()
    with pytest.raises(PoolProblem, match=f"signal {int(signal.SIGABRT)}"):
        stage.run(abort)
    assert len(stage.pids) == MOST_CRASHES


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
