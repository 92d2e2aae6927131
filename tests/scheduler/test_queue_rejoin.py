"""A queue on a cluster goes on in another child: which ends of a child are a reason, and what is said of them.

Heads are sockets, the work of a child is played. The wait for a head: test_queue_rejoin_head; signals and terminals:
test_queue_rejoin_signals; real heads: tests/ray/test_ray_head_restarts.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from scheduler.domain.errors import HeadGone, LabProblem, PoolProblem
from scheduler.lab import Workspace
from scheduler.queue.rejoin import MOST_CRASHES, NODES_BACK_S, ChildEnd, Word, goes_on, run_rejoining
from scheduler.queue.runtime import PoolHandle, PoolOptions, Runtime
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.rejoin_kit import (
    Stage,
    abort,
    be_killed,
    find_no_slot,
    lose_head,
    played_head,  # noqa: F401
    played_stage,  # noqa: F401
    tag_of,
)

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
