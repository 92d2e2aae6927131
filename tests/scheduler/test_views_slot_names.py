"""Which slot is meant where there are several nodes, and whether a process runs the queue that was killed just now."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.lab import Live, LiveSlot, process_space, read_live, write_live
from scheduler.queue.progress import slots_line, slots_table
from scheduler.screens.tables import status_screen
from scheduler.screens.terminal import painted
from scheduler.screens.watch import watch_frame
from scheduler.views.facts import LabFacts
from scheduler.views.status import Watcher, fresh_live, read_status, usable_slots
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab
from tests.scheduler.searched_lab import SearchedLab, searched_lab
from tests.waiting import wait_until

NOW = 1000.0


def live_on(*slot_ids: str) -> Live:
    slots = tuple(LiveSlot(slot, run=f"r{n:04}", candidate="c0009", name="wider") for n, slot in enumerate(slot_ids))
    return Live(NOW, os.getpid(), "t", "pool", 0, False, slots, where=process_space())


@pytest.fixture
def searched(tmp_path: Path) -> Iterator[SearchedLab]:
    made = searched_lab(tmp_path / "ledger.db", ended=False)
    yield made
    made.ledger.close()


@pytest.mark.parametrize("screen", ["line", "table", "watch", "wide watch", "status"])
def test_every_screen_names_the_nodes_where_there_are_several(
    searched: SearchedLab, tmp_path: Path, screen: str
) -> None:
    several, one = live_on("h1/gpu0", "h2/gpu0", "node-of-the-rack-12/gpu0"), live_on("h1/gpu0", "h1/gpu1")

    def drawn(live: Live) -> str:
        live = replace(live, at=searched.clock.now, tag=searched.tag)
        write_live(tmp_path / "live.json", live)
        view = Watcher(searched.ledger, searched.tag, tmp_path / "live.json").look(searched.clock.now)
        match screen:
            case "line":
                return slots_line(live)
            case "table":
                return painted([slots_table(live)], 100)
            case "status":
                return painted(status_screen(view.status), 100)
            case _:
                return watch_frame(view, 160 if "wide" in screen else 90, 40).plain

    shown = drawn(several)
    assert not [slot.slot for slot in several.slots if slot.slot not in shown], shown
    assert "gpu1" in drawn(one)
    if screen in ("line", "watch", "wide watch"):
        assert "h1/" not in drawn(one)


def test_names_count_all_nodes_those_not_shown_as_well() -> None:
    many = live_on(*(f"h1/gpu{n}" for n in range(8)), "h2/gpu0")
    assert "h1/gpu0" in slots_line(many) and "h2" not in slots_line(many)


def killed_process(*, reaped: bool) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert replace(live_on("h1/cpu0"), pid=process.pid).may_be_alive()
    process.send_signal(signal.SIGKILL)
    if reaped:
        process.wait()
    else:
        wait_until(lambda: "\nState:\tZ" in Path(f"/proc/{process.pid}/status").read_text())
    return process


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_runner_does_not_run_the_queue_from_that_moment_on(tmp_path: Path, reaped: bool) -> None:
    process = killed_process(reaped=reaped)
    written = replace(live_on("h1/cpu0"), pid=process.pid)
    write_live(tmp_path / "live.json", written)
    live = read_live(tmp_path / "live.json")
    assert live == written
    assert fresh_live("t", live, NOW) is None and usable_slots("t", live, NOW) is None
    elsewhere = replace(written, where="another boot pid:[4026531836]")
    assert fresh_live("t", elsewhere, NOW) == elsewhere
    unknown = replace(written, where="")
    assert fresh_live("t", unknown, NOW) == unknown
    process.wait()


def test_the_screen_says_that_what_a_killed_runner_began_is_unwatched(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    left: list[Live] = []

    def look() -> None:
        live = read_live(played.space.paths.live)
        if live is not None and any(slot.run for slot in live.slots) and not left:
            left.append(live)
            assert live.pid == os.getpid() and live.where
            raise KeyboardInterrupt

    played.each_round = look
    with pytest.raises(KeyboardInterrupt):
        played.run()
    facts = LabFacts(played.space.ledger, played.space.lab)
    alive = painted(status_screen(read_status(facts, left[0], played.clock())))
    assert "2 running" in alive and f"yes, process {os.getpid()}" in alive
    dead = replace(left[0], pid=killed_process(reaped=True).pid)
    shown = painted(status_screen(read_status(facts, dead, played.clock())))
    assert "2 unwatched" in shown and "no process runs the queue" in shown and "running," not in shown


def test_a_queue_that_waits_for_its_cluster_says_so(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    facts = LabFacts(played.space.ledger, played.space.lab)
    live = replace(live_on(), at=played.clock(), note="waiting for the cluster's head")
    shown = painted(status_screen(read_status(facts, live, played.clock())), 120)
    assert f"yes, process {os.getpid()} waiting for the cluster's head" in shown
