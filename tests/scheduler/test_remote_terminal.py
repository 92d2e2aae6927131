"""What goes on at the head, followed on a terminal: lines above the live table, Ctrl-C leaves, the end is said.

The head's side runs here on a terminal of its own; its `arsched` is a script.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scheduler.cli.output import print_json
from scheduler.lab import Live, LiveSlot, write_live
from scheduler.queue.progress import QUIET_S, PlainScreen, is_slots_line
from scheduler.remote import wire
from tests.scheduler.git_kit import make_repository, no_configuration  # noqa: F401
from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """#!/bin/sh
echo $$ > {folder}/pid
printf 'queued    commit:x:wide\\033[2J  c0002\\n' >&2
printf '     9 s  h1/cpu0 r0001 train · 7 queued\\n' >&2
while ! [ -e {folder}/gate ]; do sleep 0.05; done
echo last words >&2
echo 'c0002 of commit:x:wide promoted'
exit 4
"""


class Follower:
    """`python -m scheduler.remote.head REQUEST` as sshd starts it for `ssh -tt`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, b""
        request = {
            "ask": "run", "repository": "x-0123456789ab", "verb": "submit", "words": [],
            "programs": str(folder / "bin"),
            "environ": {}, "typed_as": "arsched", "goes_on": True, "json": False, "listener": "me",
            "spelt": {"commit:x:wide": "candidates/wide"}, "leaving": "left; it goes on at h",
        }  # fmt: skip
        environ = {**os.environ, "HOME": str(folder), "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            line = [sys.executable, "-m", "scheduler.remote.head", wire.encode(request)]
            os.execve(sys.executable, line, environ)

    def read_until(self, text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            assert select.select([self.terminal], [], [], deadline - time.monotonic())[0], self.seen
            self.seen += os.read(self.terminal, 65536)

    def code(self) -> int:
        """Reads what is left, and waits for the end."""
        with suppress(OSError):  # the end of a terminal
            while more := os.read(self.terminal, 65536):
                self.seen += more
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Path]:
    """The home there, with a lab that runs."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "arsched"
    program.write_text(SCRIPT.format(folder=tmp_path))
    program.chmod(0o755)
    root = make_repository(tmp_path / "labs" / "x-0123456789ab")
    slots = (LiveSlot("h1/cpu0", run="r0001", candidate="c0001", name="baseline", kind="score", phase="train"),)
    live = root / ".git" / "arsched" / "live.json"
    live.parent.mkdir()
    write_live(live, Live(time.time(), os.getpid(), "t", "pool", 7, False, slots))
    yield tmp_path
    (tmp_path / "gate").touch()


def plain(seen: bytes) -> str:
    return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen).decode()


def test_lines_stand_above_the_live_table_and_the_answer_below(head: Path) -> None:
    follower = Follower(head)
    follower.read_until(b"7 queued")
    assert b"r0001" in follower.seen and b"candidates/wide" in follower.seen
    (head / "gate").touch()
    assert follower.code() == 4
    shown = plain(follower.seen)
    assert "9 s  h1" not in shown, "the line of slots that is written where there is no table"
    assert b"\x1b[2J" not in follower.seen, "a line of a candidate's moves no cursor"
    assert shown.index("last words") < shown.index("c0002 of candidates/wide promoted")


def test_ctrl_c_leaves_and_it_goes_on_and_is_followed_again(head: Path) -> None:
    first = Follower(head)
    first.read_until(b"7 queued")
    os.write(first.terminal, b"\x03")
    assert first.code() == 130 and b"left; it goes on at h" in first.seen and b"Traceback" not in first.seen
    pid = int(wait_until((head / "pid").read_text))
    assert Path(f"/proc/{pid}").exists()
    again = Follower(head)
    again.read_until(b"it is at work already")
    (head / "gate").touch()
    assert again.code() == 4 and b"promoted" in again.seen
    assert int((head / "pid").read_text()) == pid, "it was started once"


def test_the_line_of_slots_is_known_among_the_others() -> None:
    lines: list[str] = []
    times = iter((0.0, QUIET_S, *(5 * QUIET_S,) * 3))
    screen = PlainScreen(lines.append, lambda: next(times))
    screen.show(Live(0.0, 1, "t", "pool", 7, False, (LiveSlot("h1/cpu0"),)))
    assert is_slots_line(lines[0])
    others = ("queued    c0002 wide", "result    c0002 9 s  of 7 queued", "still joining (8 s)", "    15 s  left", "")
    assert not any(map(is_slots_line, others))


def test_a_json_value_moves_no_cursor_and_stays_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "a\x9b2Jb\x1b[2J\x85 ä"}
    print_json(value)
    said = capsys.readouterr().out
    assert not re.search("[\x1b\x80-\x9f]", said) and "ä" in said and json.loads(said) == value
