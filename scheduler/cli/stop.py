"""`arsched stop`: whoever runs the queue finishes what runs, and ends. The next `arsched search` goes on with it."""

from __future__ import annotations

import os
import signal
import time

import click

from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.domain.errors import ExitCode
from scheduler.lab import Live, Workspace, open_workspace, process_space, read_live
from scheduler.queue.runtime import SchedulerLock
from scheduler.views.status import FRESH_S

LOOK_S = 0.2


@click.command()
@click.option("--now", is_flag=True, help="Stop what runs, too: it goes back to the queue.")
@click.option("--timeout", "timeout_s", type=options.Finite(0), metavar="SECONDS", help="Wait so long at most.")
@options.changing
def command(now: bool, timeout_s: float | None, tag: str | None, dry_run: bool, as_json: bool) -> int:
    """End the process that runs the queue, a detached search for one, and wait until it has ended.

    It places nothing new, finishes what runs and leaves; nothing is lost. `arsched search` or `arsched submit` go on.
    With --tag only where it runs that lab. Exit code 3: it was still at work when the time was over, and ends as soon
    as it can.
    """
    with open_workspace(tag) as space:
        lock = SchedulerLock(space.paths.scheduler_lock)
        runs, live = not _is_over(space, lock), read_live(space.paths.live)
        if runs and tag and (other := _other_lab(space, lock)):
            return _leave_alone(space, other, dry_run=dry_run, as_json=as_json)
        ended = not runs if dry_run else _stop(space, lock, now=now, timeout_s=timeout_s)
    who = f"process {live.pid}" if runs and live else "the process that runs the queue"
    done = f"{who} would be stopped" if dry_run else f"{who} has ended" if ended else f"{who} is still ending"
    text = done if runs else "no process runs the queue: nothing to stop"
    value = {"tag": space.tag, "ran": runs, "pid": live.pid if runs and live else None, "ended": ended}
    print_json(value | {"dry_run": dry_run}) if as_json else print_text(text)
    return 0 if ended or dry_run else ExitCode.ANSWER_IS_NO


def _other_lab(space: Workspace, lock: SchedulerLock) -> Live | None:
    """What the process that runs the queue shows, where that is of another lab. A new one shows nothing at first."""
    deadline = time.monotonic() + FRESH_S
    while True:
        live = read_live(space.paths.live)
        if live is not None and _is_fresh(live):
            return live if live.tag != space.tag else None
        if time.monotonic() > deadline or _is_over(space, lock):
            return None
        time.sleep(LOOK_S)


def _leave_alone(space: Workspace, other: Live, *, dry_run: bool, as_json: bool) -> int:
    text = f"no process runs the queue of lab {space.tag!r}: nothing to stop. Process {other.pid} runs {other.tag!r}"
    value = {"tag": space.tag, "ran": False, "pid": None, "ended": True, "dry_run": dry_run}
    print_json(value) if as_json else print_text(text)
    return 0


def _stop(space: Workspace, lock: SchedulerLock, *, now: bool, timeout_s: float | None) -> bool:
    """Whether it has ended. Asked again where it removes the request as one that an earlier process left behind."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    is_said = signalled = False
    while not _is_over(space, lock):
        live = read_live(space.paths.live)
        if live is None or not live.stopping:
            space.paths.stop.touch()
        if now and live is not None and not signalled and _is_fresh(live):
            signalled = _end(live)
        if not is_said:
            log("stopping: what runs goes back to the queue" if now else "stopping: what runs is finished first")
            is_said = True
        if deadline is not None and time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    space.paths.stop.unlink(missing_ok=True)
    return True


def _end(live: Live) -> bool:
    """Ask for its end with a signal: whether the process was there."""
    try:
        os.kill(live.pid, signal.SIGTERM)
    except OSError:
        return False
    return True


def _is_over(space: Workspace, lock: SchedulerLock) -> bool:
    """Whether no process runs the queue, nor passes it to its next one: the live file is gone before the lock is."""
    free = lock.try_take()
    lock.release()
    live = read_live(space.paths.live) if free else None
    is_here = live is not None and live.where == process_space() and _is_fresh(live) and live.may_be_alive()
    return free and not is_here


def _is_fresh(live: Live) -> bool:
    return abs(time.time() - live.at) < FRESH_S  # a clock may be set back
