"""What others write on stdout and stderr while a queue runs goes to a file; our lines stay where they belong."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
import logging, os, sys
from pathlib import Path
from scheduler.cli.output import guard_streams, log
from scheduler.domain.errors import PoolProblem
from scheduler.queue.progress import open_screen

guard_streams()
print("before")
try:
    with open_screen(Path(sys.argv[1])) as screen:
        screen.say("ours \N{MINUS SIGN}1")
        print("(raylet) dead", flush=True)
        logging.StreamHandler().emit(logging.LogRecord("ray", 40, "", 0, "from a handler", (), None))
        os.write(1, b"C++ on stdout\\n")
        os.write(2, b"C++ on stderr\\n")
        os.system("echo a process of ours >&2")
        if sys.argv[2] == "problem":
            raise PoolProblem("no slot")
except PoolProblem as problem:
    log(problem.message)
print("after")
os.write(2, b"fd 2 again\\n")
"""
CHATTER = {"(raylet) dead", "from a handler", "C++ on stdout", "C++ on stderr", "a process of ours"}


def run(path: Path, how: str, environ: dict[str, str] | None = None) -> tuple[list[str], list[str]]:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(path), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_ours_stay_on_the_terminal_and_the_rest_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / ".arsched" / "ray.log"
    out, err = run(path, "well")
    assert out == ["before", "after"]
    assert err == ["ours \N{MINUS SIGN}1", "fd 2 again"]
    assert set(path.read_text().splitlines()) == CHATTER


def test_only_where_something_went_wrong_a_line_says_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ray.log"
    out, err = run(path, "problem")
    assert out == ["before", "after"]
    assert err == ["ours \N{MINUS SIGN}1", f"note: what Ray said is in {path}", "no slot", "fd 2 again"]


def test_ours_are_spelt_plainly_where_the_terminal_lacks_a_sign(tmp_path: Path) -> None:
    _, err = run(tmp_path / "ray.log", "well", {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)})
    assert err[0] == "ours -1"


@pytest.mark.parametrize("kind", ["a folder", "below a file"])
def test_a_file_that_cannot_be_had_stops_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    out, err = run(tmp_path if kind == "a folder" else tmp_path / "file" / "ray.log", "well")
    assert {*out, *err} == {"before", "after", "fd 2 again", "ours \N{MINUS SIGN}1", *CHATTER}


def test_a_long_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "ray.log"
    path.write_text("x" * (2**20 + 1))
    run(path, "well")
    assert len(path.read_text()) < 1000
