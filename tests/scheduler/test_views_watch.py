"""What is watched fits every terminal, is read again only when it changed, and can be left at any time."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from scheduler.cli.main import main
from scheduler.lab import Live, LiveSlot, write_live
from scheduler.screens.drawings import effect_axis, staircase, whisker_text
from scheduler.screens.watch import watch_frame
from scheduler.views import status as watching
from scheduler.views.candidates import history
from scheduler.views.status import Watch, Watcher
from tests.scheduler.git_kit import make_repository
from tests.scheduler.searched_lab import EVIL, SearchedLab, searched_lab
from tests.scheduler.test_views_plots import played as made_up_course


@pytest.fixture
def played(tmp_path: Path) -> Iterator[SearchedLab]:
    played = searched_lab(tmp_path / "ledger.db", ended=False)
    yield played
    played.ledger.close()


def at_work(played: SearchedLab, elapsed_s: float = 8.4) -> Live:
    busy = LiveSlot(
        slot="laptop/cpu0", run="r0011", candidate="c0009", name=EVIL, kind="new", phase="train",
        elapsed_s=elapsed_s, budget_s=20.0, step=82, loss=3.1,
    )  # fmt: skip
    broken = LiveSlot("laptop/cpu2", problem="cache is missing")
    return Live(played.clock.now, 4242, played.tag, "pool", 0, False, (busy, LiveSlot("laptop/cpu1"), broken))


def watcher_of(played: SearchedLab, tmp_path: Path) -> Watcher:
    return Watcher(played.ledger, played.tag, tmp_path / "live.json")


def look(played: SearchedLab, tmp_path: Path, live: Live | None = None) -> Watch:
    if live is not None:
        write_live(tmp_path / "live.json", live)
    return watcher_of(played, tmp_path).look(played.clock.now)


# the frame


def check_fits(view: Watch, width: int, height: int) -> list[str]:
    lines = watch_frame(view, width, height).plain.split("\n")
    assert len(lines) <= height and max(map(cell_len, lines)) <= width
    return lines


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watch, ...]:
    """A lab at work, one that ended, and an empty one."""
    folder = tmp_path_factory.mktemp("watched")
    running, ended, empty = (
        searched_lab(folder / "a.db", ended=False),
        searched_lab(folder / "b.db"),
        SearchedLab(folder / "c.db"),
    )
    seen = (look(running, folder, at_work(running)), look(ended, folder / "none"), look(empty, folder / "none"))
    for lab in (running, ended, empty):
        lab.ledger.close()
    return seen


@settings(deadline=None, max_examples=60)
@given(width=st.integers(20, 260), height=st.integers(6, 90))
def test_a_frame_fits_every_terminal(views: tuple[Watch, ...], width: int, height: int) -> None:
    for view in views:
        check_fits(view, width, height)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 40)])
def test_what_matters_is_on_it(views: tuple[Watch, ...], width: int, height: int) -> None:
    said = "\n".join(check_fits(views[0], width, height))
    for part in ("4242", "no claim yet", "hours ███", "3.0/8", "cpu0", "8/20 s", "cache is missing", "loss 3.100"):
        assert part in said
    for part in ("1 idea being written", "├", "●", "━", "run 1", "c0005 union", "near-miss", "discard"):
        assert part in said
    assert "1.9530 → 1.8835, −0.0695 ± 0.0031" in "\n".join(check_fits(views[1], width, height))
    assert "no process runs the queue" in "\n".join(check_fits(views[2], width, height))


def test_markup_and_controls_stay_text(views: tuple[Watch, ...]) -> None:
    said = watch_frame(views[0], 300, 60).plain
    assert "<script>" in said and "\x1b" not in said and "\u202e" not in said


def test_the_baseline_is_always_on_the_board(played: SearchedLab, tmp_path: Path) -> None:
    """Four near-misses by luck are ranked above it."""
    view = look(played, tmp_path)
    rows = [replace(row, is_baseline=row.candidate == "c0001") for row in view.leaderboard.candidates]
    crowded = replace(view, leaderboard=replace(view.leaderboard, candidates=tuple(rows)))
    assert "▶c0001" in watch_frame(crowded, 80, 24).plain


def test_error_bars_in_letters() -> None:
    axis = effect_axis([(-0.03, 0.005), (0.01, 0.005), (2.0, 0.1)])
    drawn = whisker_text(axis, -0.03, 0.005, 19)
    assert drawn.index("├") < drawn.index("●") < drawn.index("┤") < drawn.index("┊")
    assert whisker_text(axis, 2.0, 0.1, 19).endswith(">") and len(drawn) == 19


@pytest.mark.parametrize("runs", [0, 1, 2, 40, 700])
def test_a_staircase_of_any_length(runs: int) -> None:
    lines = staircase(made_up_course(runs), 60, 10)
    assert len(lines) in (0, 10) and all(line.cell_len == 60 for line in lines)
    assert bool(lines) == bool(runs)


def test_steps_lead_down(played: SearchedLab) -> None:
    lines = [line.plain for line in staircase(history(played.facts()), 60, 12)]
    rows = [(place, line.index("●")) for place, line in enumerate(lines) if "●" in line]
    assert len(rows) == 2 and rows[0][0] < rows[1][0] and rows[0][1] < rows[1][1]


# the watcher


def test_what_did_not_change_is_not_read_again(
    played: SearchedLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counted(name: str) -> None:
        real = getattr(watching, name)
        monkeypatch.setattr(watching, name, lambda *words: (reads.append(name), real(*words))[1])

    counted("LabFacts")
    counted("read_search")
    watcher = watcher_of(played, tmp_path)
    first = watcher.look(played.clock.now)
    assert reads == ["LabFacts", "read_search"]
    write_live(tmp_path / "live.json", at_work(played, elapsed_s=3.0))
    second = watcher.look(played.clock.now + 1)
    assert reads == ["LabFacts", "read_search"] and second.leaderboard is first.leaderboard
    assert [slot.elapsed_s for slot in second.status.slots if slot.run] == [3.0]
    played.ledger.searches.tick(1, 1800.0)
    third = watcher.look(played.clock.now + 2)
    assert reads == ["LabFacts", "read_search", "read_search"]
    assert third.status.search is not None and third.status.search.spent.hours == 3.5
    played.ledger.labs.pause(played.tag, "lunch")
    assert watcher.look(played.clock.now + 3).status.paused
    assert reads[-2:] == ["LabFacts", "read_search"]


def test_ideas_grow_older_between_reads(played: SearchedLab, tmp_path: Path) -> None:
    watcher = watcher_of(played, tmp_path)
    ages = [watcher.look(played.clock.now + later).status.ideas[0].age_s for later in (0, 5)]
    assert ages[1] - ages[0] == 5


# the verb


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = make_repository(tmp_path / "lab")
    searched_lab(made / ".git" / "arsched" / "ledger.db").ledger.close()
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("LINES", raising=False)
    return made


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(list(words))
    return int(ended.value.code or 0)


def test_one_frame_into_a_pipe(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("watch", "--once"), ("watch",)):
        assert run(*words) == 0
        out = capsys.readouterr().out
        assert "claim 1.9530 → 1.8835" in out and "\x1b" not in out and out.count("\n") <= 24


def test_one_value_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("watch", "--once", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said) == ["at", "status", "leaderboard", "history"]
    assert run("watch", "--json") == 2
    assert "--once" in json.loads(capsys.readouterr().out)["hint"]


def test_ctrl_c_leaves_a_terminal_as_it_was(root: Path) -> None:
    """A real terminal: the other screen is entered, a frame drawn, and on SIGINT the first screen is back."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "TERM": "xterm"}
    command = [sys.executable, "-m", "scheduler.cli.main", "watch"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while b"claim" not in seen:
            seen += os.read(ours, 65536)
        assert b"\x1b[?1049h" in seen
        process.send_signal(signal.SIGINT)
        while b"what runs goes on" not in seen:
            seen += os.read(ours, 65536)
        assert process.wait(60) == 0
        assert seen.rindex(b"\x1b[?1049l") > seen.rindex(b"\x1b[?1049h")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
