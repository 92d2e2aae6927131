"""What the command line prints through: readers that leave, streams that are closed or full, names of files that are no
text, Ctrl-C before it has begun. No slots, no queue.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scheduler.cli.main import main
from scheduler.queue.diversion import lead_nowhere, say
from scheduler.queue.progress import PlainScreen
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import make_space

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    space = make_space(tmp_path, time.time)
    space.ledger.close()
    monkeypatch.chdir(space.repo.root)
    return space.repo.root


def arsched(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_while_it_is_being_loaded_leaves_no_trace(tmp_path: Path, ignored: bool) -> None:
    """Unless it is ignored, as in the background of a script."""
    (tmp_path / "difflib.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n"
    )
    program = [sys.executable, "-c", "import scheduler.__main__ as it; it.run()"]
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    done = subprocess.run(
        program, capture_output=True, text=True, env=environ, preexec_fn=lambda: signal.signal(signal.SIGINT, handler)
    )
    assert done.returncode == (7 if ignored else -signal.SIGINT) and done.stderr == "", done.stderr


@pytest.mark.parametrize(("chosen", "threads"), [(None, "1"), ("3", "3")])
def test_decisions_take_one_thread_unless_the_user_says_otherwise(chosen: str | None, threads: str) -> None:
    """NumPy's would spin on the cores that runs train on."""
    program = "import os, sys, scheduler.__main__ as it\nsys.argv[1:] = ['-V']\ntry: it.run()\n"
    program += "finally: print(os.environ['OPENBLAS_NUM_THREADS'])"
    environ = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    environ |= {"PYTHONPATH": str(ROOT), **({"OPENBLAS_NUM_THREADS": chosen} if chosen else {})}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ)
    assert done.stdout.splitlines()[-1] == threads


def test_a_closed_pipe_is_no_error_message(lab: Path) -> None:
    program = [sys.executable, "-m", "scheduler.cli.main", "--help"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=lab, env=environ)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert b"Error" not in err and b"Traceback" not in err and process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["labs"], 0), (["labs", "--json"], 0), (["leaderboard"], 0), (["brief"], 0), (["show", "c0001"], 0),
        (["cancel", "c0001"], 3), (["submti", "--json"], 2), (["submit", "bad.py", "--no-wait"], 3), (["new", "x"], 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streams", ["", "2>&1"])
def test_a_reader_that_leaves_changes_nothing_of_how_a_command_ends(
    lab: Path, arguments: list[str], code: int, streams: str
) -> None:
    (lab / "bad.py").write_text("x = = 1\n")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PROGRAM": sys.executable}
    left = f'(sleep 0.2; "$PROGRAM" -m scheduler {shlex.join(arguments)} {streams}; echo $? > code) | true'
    done = subprocess.run(["sh", "-c", left], capture_output=True, text=True, cwd=lab, env=environ)
    assert (lab / "code").read_text() == f"{code}\n", done.stderr
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


@pytest.mark.parametrize("arguments", [["submit"], ["show"], ["new"], ["labs"], ["init", "--train"], ["--cluster"]])
def test_a_name_that_is_no_utf_8_is_shown_with_json_too(lab: Path, arguments: list[str]) -> None:
    name = os.fsdecode(b"caf\xe9.py")
    with open(lab / name, "w") as file:
        file.write("x = = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "scheduler", *arguments, name, "--json"], capture_output=True, cwd=lab,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = done.stdout.decode()
    assert json.loads(said) and done.returncode in (1, 2, 3) and "defect" not in said
    assert b"Traceback" not in done.stderr
    assert arguments != ["submit"] or r"caf\\xe9.py" in said


def test_names_of_files_cannot_write_on_the_terminal(lab: Path) -> None:
    """Whoever edits in candidates/ names files there, and a person types candidates/*."""
    names = ["\x1b[31mred.py", "two\npromoted  c0009.py", "bad\x1b]0;title\x07.py", "loop.py", "none\x1b[2J.py"]
    for number, name in enumerate(names[:3]):
        (lab / name).write_text(f"SCORE = 1.{number}\n" if number < 2 else "x = = 1\n")
    (lab / "loop.py").symlink_to("loop.py")
    done = arsched("submit", "--no-wait", *names)
    assert done.exit_code == 3 and "\x1b" not in done.output and "\npromoted" not in done.output
    assert "queued    c0002 31mred" in done.stderr and "refused   loop.py: it is a link to loop.py" in done.stderr
    assert "\x1b" not in arsched("submit", "--no-wait", "none\x1b[2J.py").output
    assert "\x1b" not in arsched("show", "none\x1b[2J").output


def test_talk_that_cannot_be_written_ends_no_work(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with open(writer, "w", buffering=1) as stream:
        screen = PlainScreen(partial(say, stream))
        screen.say("one")
        assert os.read(reader, 100) == b"one\n"
        os.close(reader)
        screen.say("two")
        screen.say("three")
    with open("/dev/full", "w", buffering=1) as full:
        PlainScreen(partial(say, full)).say("a log on a full disk")
        lead_nowhere(full)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_the_caller_closed_are_no_defect(lab: Path, closed: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["sh", "-c", f"{shlex.quote(sys.executable)} -m scheduler labs {closed}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=lab, env=environ)
    assert done.returncode == 0 and "defect" not in done.stderr and "Traceback" not in done.stderr
