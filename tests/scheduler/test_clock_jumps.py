"""The machine's clock is set back or forward by hours: leases, waits, ages and the timeline go on."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli.main import main
from scheduler.domain.run import Finished
from scheduler.domain.slot import Slot
from scheduler.lab import Live, open_workspace, read_live
from scheduler.queue.runner import run_queue
from scheduler.queue.runtime import Runtime, StopReason, steady_time
from scheduler.views.status import fresh_live
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab, make_space
from tests.scheduler.ledger_kit import broken_invariants

HOURS_S = 5 * 3600.0
READING = ("status", "leaderboard", "show better", "explain better", "brief", "labs", "watch --once", "report")


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    made = PlayedLab(tmp_path)
    made.clock.now_s = 20_000.0
    return made


def lease_to_a_node_that_is_gone(played: PlayedLab) -> str:
    """As a driver leaves it that was killed, on a cluster that lost that node."""
    played.outlives_us = True
    (run, *_) = played.space.ledger.runs.queued("t")
    gone = Slot("gone/cpu0", "gone", "boot-9", "cpu", "memory", "memory", "cache-1")
    assert played.space.ledger.runs.lease(run.id, gone, played.clock() + 60.0) == 1
    return run.id


@pytest.mark.parametrize("jump_s", [-HOURS_S, 0.0, HOURS_S])
def test_between_two_drivers_a_lost_run_is_waited_for_as_long_as_a_lease(played: PlayedLab, jump_s: float) -> None:
    run_id = lease_to_a_node_that_is_gone(played)
    played.clock.advance(jump_s)
    began = played.clock()
    assert played.run() is StopReason.DONE
    first, *_ = played.space.ledger.runs.attempts(run_id)
    assert first.outcome == "lost" and first.ended_at is not None
    assert 5.0 <= first.ended_at - began <= 70.0
    assert not broken_invariants(played.space.paths.ledger)


@pytest.mark.parametrize("jump_s", [-HOURS_S, HOURS_S])
def test_while_a_queue_runs_every_run_is_done_once(played: PlayedLab, jump_s: float) -> None:
    """By a process that cannot count on a steady clock, as an injected one."""
    played.submit("better", "SCORE = 1.7\n")
    rounds = 0

    def jump() -> None:
        nonlocal rounds
        rounds += 1
        if rounds in (5, 30):
            played.clock.advance(jump_s / 4)

    played.each_round = jump
    assert played.run() is StopReason.DONE
    runs = played.space.ledger.runs.list("t")
    assert all(isinstance(run.state, Finished) for run in runs)
    assert len(played.pool.started) == len(runs)
    assert not broken_invariants(played.space.paths.ledger)


@pytest.mark.parametrize("jump_s", [-HOURS_S, HOURS_S])
def test_screens_of_a_lab_whose_times_run_backwards(
    played: PlayedLab, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.run()
    played.clock.advance(jump_s)
    played.submit("better", "SCORE = 1.7\n")
    played.each_round = lambda: None
    played.run()
    monkeypatch.chdir(played.space.repo.root)
    for verb in READING:
        done = CliRunner().invoke(main, verb.split())
        assert done.exit_code == 0 and "defect" not in done.stderr, (verb, done.stderr)


def test_the_live_file_has_the_time_that_other_processes_read(played: PlayedLab) -> None:
    """Else a queue whose clock was set reads as one that has ended, and `stop` does not find it."""
    played.submit("better", "SCORE = 1.7\n")
    seen: list[float] = []
    means = replace(played.means, wall=lambda: 777.0)

    def look() -> None:
        live = read_live(played.space.paths.live)
        seen.extend([live.at] if live else [])

    played.each_round = look
    assert run_queue(played.space, played.screen, means, settled=lambda: False) is StopReason.DONE
    assert set(seen) == {777.0}


@pytest.mark.parametrize("jump_s", [-HOURS_S, 0.0, HOURS_S])
def test_what_a_lab_records_is_never_before_what_it_has_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """By another process, after the clock was set: a search counts the ideas and claims that came after its start."""
    space = make_space(tmp_path, time.time)
    space.ledger.close()
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + jump_s
    monkeypatch.setattr("scheduler.queue.runtime._STARTED", started)
    for _ in range(2):
        with open_workspace(start=space.repo.root) as again:
            again.ledger.labs.pause(again.tag, "")
            again.ledger.labs.resume(again.tag)
            times = [event.at for event in again.ledger.events.list(again.tag)]
            assert times == sorted(times) and len(times) > 3
            assert 0.0 <= Runtime().clock() - times[-1] < 60.0
            assert abs(Runtime().clock() - time.time() - max(0.0, jump_s)) < 60.0
    assert abs(Runtime().clock() - time.time() - jump_s) < 60.0, "another lab may have other times"


@pytest.mark.parametrize(("ahead_s", "fresh"), [(0.0, True), (5.0, True), (3600.0, False), (-3600.0, False)])
def test_a_live_file_from_before_the_clock_was_set_back_is_of_no_process(ahead_s: float, fresh: bool) -> None:
    left = Live(1000.0 + ahead_s, os.getpid(), "t", "", 0, False, ())
    assert (fresh_live("t", left, 1000.0) is not None) == fresh


def test_the_programs_own_clock_does_not_follow_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs(steady_time() - time.time()) < 60.0
    before = steady_time()
    monkeypatch.setattr(time, "time", lambda: before + HOURS_S)
    assert 0.0 <= steady_time() - before < 60.0
