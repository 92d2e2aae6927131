"""A cluster's head hangs or goes while its queue runs: what is said and when, and how the queue waits for it.

Heads are sockets, the work of a child is played. Real heads: tests/ray/test_ray_head_restarts.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from scheduler.lab import Workspace
from scheduler.queue import rejoin
from scheduler.queue.runtime import SchedulerLock, StopReason
from scheduler.ray import head as heads
from scheduler.ray.head import Head, look_for_head
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.rejoin_kit import (
    PlayedHead,
    Stage,
    deaf,
    hang,
    lose_head,
    played_head,  # noqa: F401
    played_stage,  # noqa: F401
    tag_of,
)
from tests.waiting import wait_until


def test_a_head_is_there_hangs_or_is_away(head: PlayedHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.ray.head.ANSWER_S", 0.3)
    assert look_for_head(head.address) is Head.AWAY
    head.start()
    assert look_for_head(head.address) is Head.THERE
    head.end()
    head.start("hangs")
    assert look_for_head(head.address) is Head.SILENT
    assert look_for_head("auto") is Head.THERE


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


def release_of(mine: Workspace) -> Path:
    return mine.paths.root / "released"


def hang_until_released(mine: Workspace) -> str:
    wait_until(release_of(mine).exists)
    return mine.tag


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "ANSWER_S", 1.0)
    monkeypatch.setattr(rejoin, "SILENCE_SAID_S", 0.3)


def silence(stage: Stage) -> None:
    """As a gcs_server that is stopped: the kernel still takes connections for it."""
    wait_until(lambda: len(stage.pids) == 1)
    stage.head.send(signal.SIGSTOP)
    wait_until(lambda: any("does not answer" in line for line in stage.screen))


def test_a_head_that_hangs_for_a_while_is_said_where_the_child_draws_and_ends_nothing(
    stage: Stage, hasty: None
) -> None:
    """Although its main thread may hang in Ray."""
    stage.head.start()

    def interrupt() -> None:
        silence(stage)
        stage.head.send(signal.SIGCONT)
        wait_until(lambda: any("answers again" in line for line in stage.screen))
        release_of(stage.space).touch()

    acting = stage.in_the_middle(interrupt)
    assert stage.run(hang_until_released) == "t"
    acting.join()
    silent, again = stage.screen
    assert "takes connections and does not answer; nothing is lost" in silent and stage.head.address in silent
    assert "60 s" in silent and "nothing is lost" in again
    assert len(stage.pids) == 1 and stage.said == []


def test_a_head_that_hangs_on_counts_as_gone_and_the_queue_waits_for_it(
    stage: Stage, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejoin, "CUT_AFTER_S", {Head.AWAY: 60.0, Head.SILENT: 1.5})
    stage.head.start()

    def interrupt() -> None:
        silence(stage)
        wait_until(lambda: stage.said)
        stage.head.send(signal.SIGCONT)

    acting = stage.in_the_middle(interrupt)
    assert stage.run(deaf, tag_of) == "t"
    acting.join()
    assert sum("does not answer" in line for line in stage.screen) == 1
    gone, back = stage.said
    assert "is gone; nothing is lost" in gone and "answers after" in back


def test_one_look_without_an_answer_is_not_said(stage: Stage, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy head needs seconds to answer."""
    looks = [Head.THERE, *[Head.SILENT, Head.THERE] * 4]
    monkeypatch.setattr(rejoin, "look_for_head", lambda address: looks.pop(0) if looks else Head.THERE)
    stage.head.start()
    acting = stage.in_the_middle(lambda: (wait_until(lambda: not looks), release_of(stage.space).touch()))
    assert stage.run(hang_until_released) == "t"
    acting.join()
    assert stage.screen == [] == stage.said


def test_a_silent_head_is_said_within_fifteen_seconds() -> None:
    """At the second look in a row that finds it silent, each after a pause."""
    look_s = rejoin.LOOK_S + heads.CONNECT_S + heads.ANSWER_S
    assert rejoin.SILENCE_SAID_S <= 2 * look_s < 15.0 < rejoin.CUT_AFTER_S[Head.SILENT]
