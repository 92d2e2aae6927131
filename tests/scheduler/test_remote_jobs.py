"""Verbs that go on at the head when the laptop has gone: followed, joined again, their end heard later, killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.remote.jobs import Job, confirm, start_or_join
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
FOLLOW = """
import sys
from pathlib import Path
from scheduler.remote.jobs import Job, follow
code = follow(Job(Path(sys.argv[1]), is_new=sys.argv[2] == "new"))
sys.exit(99 if code is None else code)
"""


class Listener:
    """The head's side of one ssh. `out` and `err` are what it handed on."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        words = [sys.executable, "-c", FOLLOW, str(job.folder), "new" if job.is_new else "old"]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=out, stderr=err)

    def leave(self) -> int:
        """The laptop closes."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(60)

    def code(self) -> int:
        return self.process.wait(60)


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[[Job], Listener]]:
    made: list[Listener] = []

    def make(job: Job) -> Listener:
        folder = tmp_path / f"listener{len(made)}"
        folder.mkdir()
        made.append(Listener(job, folder))
        return made[-1]

    yield make
    for one in made:
        one.leave()


def start(tmp_path: Path, script: str, *, hear_end: bool = False) -> Job:
    words = ["sh", "-c", script]
    return start_or_join(tmp_path / "jobs", words, tmp_path, os.environ, listener="me", hear_end=hear_end)


Listen = Callable[[Job], Listener]


def test_output_and_code_are_handed_on(tmp_path: Path, listen: Listen) -> None:
    heard = listen(start(tmp_path, "pwd; echo err >&2; read x || echo no input; exit 4"))
    assert heard.code() == 4
    assert (heard.out.read_text(), heard.err.read_text()) == (f"{tmp_path}\nno input\n", "err\n")


def test_it_goes_on_when_the_listener_goes_and_is_joined_again(tmp_path: Path, listen: Listen) -> None:
    gate = tmp_path / "gate"
    script = f"echo begun >> {tmp_path}/begun; while ! [ -e {gate} ]; do sleep 0.05; done; echo end"
    first = listen(start(tmp_path, script))
    wait_until((tmp_path / "begun").exists)
    assert first.leave() == 99
    again = start(tmp_path, script)
    assert not again.is_new
    second = listen(again)
    gate.touch()
    assert second.code() == 0 and second.out.read_text() == "end\n"
    assert (tmp_path / "begun").read_text() == "begun\n", "it was started once"
    assert start(tmp_path, script).is_new, "what has ended is started anew"


@pytest.mark.parametrize("hear_end", [True, False])
def test_the_end_of_a_search_is_heard_by_who_comes_later(tmp_path: Path, listen: Listen, hear_end: bool) -> None:
    job = start(tmp_path, "echo claim; exit 4", hear_end=hear_end)
    wait_until(lambda: job.code() is not None)
    later = start(tmp_path, "echo claim; exit 4", hear_end=hear_end)
    assert later.is_new is not hear_end
    heard = listen(later)
    assert heard.code() == 4 and heard.out.read_text() == "claim\n"
    confirm(tmp_path / "jobs", "another")
    assert start(tmp_path, "echo claim; exit 4", hear_end=hear_end).is_new is not hear_end, "none has confirmed it"
    confirm(tmp_path / "jobs", "me")
    wait_until(lambda: later.code() is not None)
    assert start(tmp_path, "echo claim; exit 4", hear_end=hear_end).is_new


def test_a_killed_command_ends_its_listener_and_can_be_started_again(tmp_path: Path, listen: Listen) -> None:
    script = f"echo $$ > {tmp_path}/pid; [ -e {tmp_path}/gate ] || exec sleep 1000"
    heard = listen(start(tmp_path, script))
    pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip()))
    outer = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for one in (outer, pid):
        os.kill(one, signal.SIGKILL)
    assert heard.code() == 1 and "was killed on the head" in heard.err.read_text()
    (tmp_path / "gate").touch()
    again = start(tmp_path, script)
    assert again.is_new and listen(again).code() == 0


def test_one_who_looks_at_a_job_is_not_taken_for_the_job(tmp_path: Path) -> None:
    job = start(tmp_path, "exit 3")
    wait_until(lambda: job.code() is not None)
    (job.folder / "code").unlink()  # as one that was killed
    wait_until(lambda: job.code() == 1)
    modes, real = [], fcntl.flock

    def flock(file: object, mode: int) -> None:
        modes.append(mode)
        real(file, mode)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        assert job.code() == 1
    with (job.folder / "lock").open("rb") as looking:
        real(looking, modes[0])  # the listener of another laptop, in the middle of its look
        assert start(tmp_path, "exit 3").is_new


def test_what_has_said_its_code_has_ended(tmp_path: Path) -> None:
    """Its shell may take a moment longer, or a program that it left behind hold the lock."""
    job = start(tmp_path, f"while ! [ -e {tmp_path}/gate ]; do sleep 0.05; done")
    (job.folder / "code").write_text("3\n")
    try:
        assert start(tmp_path, f"while ! [ -e {tmp_path}/gate ]; do sleep 0.05; done").is_new
    finally:
        (tmp_path / "gate").touch()


def test_a_command_that_is_not_there_has_its_code(tmp_path: Path, listen: Listen) -> None:
    heard = listen(start_or_join(tmp_path / "jobs", ["/no/such"], tmp_path, os.environ, listener="me", hear_end=False))
    assert heard.code() == 127 and "/no/such" in heard.err.read_text()


def test_different_words_are_different_jobs(tmp_path: Path) -> None:
    folders = {start(tmp_path, script).folder for script in ("true", "true ", "exit 0")}
    assert len(folders) == 3


def test_the_answer_stands_below_what_was_said_on_the_way(tmp_path: Path) -> None:
    line = ["sh", "-c", "echo answer; echo way >&2"]
    job = start_or_join(tmp_path / "jobs", line, tmp_path, os.environ, listener="a", hear_end=True)
    wait_until(lambda: job.code() == 0)
    words = [sys.executable, "-c", FOLLOW, str(job.folder), "old"]
    assert subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout == b"way\nanswer\n"


def test_an_end_that_a_full_disk_did_not_keep_is_said(tmp_path: Path, listen: Listen) -> None:
    job = start(tmp_path, "exit 0", hear_end=True)
    wait_until(lambda: job.code() is not None)
    (job.folder / "code").write_text("")
    heard = listen(job)
    assert heard.code() == 1 and "is a disk full?" in heard.err.read_text()
