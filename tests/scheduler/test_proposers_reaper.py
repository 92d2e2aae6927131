"""Nothing a proposer's command starts outlives it: not its end, a limit, its owner's request or its owner's death.

Every case runs in a PID namespace where this machine grants one, and as a subreaper, which works everywhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.proposers.process import EndKind, ManagedProcess, ProcessEnd, last_line
from tests.scheduler.proposer_kit import AGENT_COMMAND, MARK, marked
from tests.waiting import wait_until

OWNER = """
import sys, time
from pathlib import Path
from scheduler.proposers.process import ManagedProcess
process = ManagedProcess(["/bin/sh", "-c", sys.argv[1]], log=Path(sys.argv[2]), containment=sys.argv[3])
time.sleep(600)
"""


def namespaces_work() -> bool:
    probe = ["unshare", *([] if os.geteuid() == 0 else ["-Ur"]), "--pid", "--fork", "--mount-proc", "true"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(params=["namespace", "subreaper"])
def containment(request: pytest.FixtureRequest) -> str:
    if request.param == "namespace" and not namespaces_work():
        pytest.skip("no PID namespaces on this machine")
    return str(request.param)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    yield value
    for pid in marked(value):  # only ever what this test has leaked
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCRIPTED_READY", str(tmp_path / "ready"))
    (tmp_path / "train.py").write_text("DEPTH = 4\n")
    return tmp_path / "ready"


def finish(child: ManagedProcess) -> ProcessEnd:
    wait_until(lambda: child.poll() is not None, "the end of a command")
    ending = child.poll()
    assert ending is not None
    return ending


def start(command: str, folder: Path, containment: str, **given) -> ManagedProcess:
    return ManagedProcess(
        ["/bin/sh", "-c", command], log=folder / "log", folder=folder, containment=containment, **given
    )


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        ("echo out; echo err >&2", ProcessEnd(EndKind.EXIT, 0)),
        ("exit 3", ProcessEnd(EndKind.EXIT, 3)),
        ("kill -9 $$", ProcessEnd(EndKind.EXIT, -9)),
        ("cat", ProcessEnd(EndKind.EXIT, 0)),  # its input is closed
    ],
)
def test_a_command_ends_as_it_ends(
    command: str, ending: ProcessEnd, tmp_path: Path, containment: str, mark: str
) -> None:
    child = start(command, tmp_path, containment)
    assert finish(child) == ending
    assert command != "echo out; echo err >&2" or child.printed() == "out\nerr\n"


def test_the_reaper_is_not_the_one_of_the_worktree(tmp_path: Path, containment: str, mark: str) -> None:
    impostor = tmp_path / "harness"
    impostor.mkdir()
    (impostor / "__init__.py").touch()
    (impostor / "process_reaper.py").write_text("raise SystemExit('this is the reaper now')\n")
    assert finish(start("exit 3", tmp_path, containment)) == ProcessEnd(EndKind.EXIT, 3)


@pytest.mark.parametrize("lot", ["hang", "storm"])
def test_the_limit_ends_what_ignores_every_signal(
    lot: str, tmp_path: Path, containment: str, mark: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_LOT", lot)
    child = start(AGENT_COMMAND, tmp_path, containment, limit_s=0.5)
    assert finish(child).how is EndKind.TIMEOUT
    assert marked(mark) == []


def test_a_chain_of_forks_is_caught(tmp_path: Path, containment: str, mark: str) -> None:
    """It is never the same process for long; a look at all of /proc is out of date when it ends."""
    runaway = Path(__file__).parents[1] / "fixtures" / "hostile" / "runaway.py"
    child = start(f"{sys.executable} -S {runaway}; sleep 600", tmp_path, containment, limit_s=0.5)
    assert finish(child).how is EndKind.TIMEOUT
    assert marked(mark) == []


def test_a_daemon_dies_with_the_command_that_left_it(
    tmp_path: Path, containment: str, mark: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_LOT", "daemon")
    assert finish(start(AGENT_COMMAND, tmp_path, containment)) == ProcessEnd(EndKind.EXIT, 0, left=1)
    assert ready.exists()
    assert marked(mark) == []


@pytest.mark.parametrize("lot", ["hang", "storm"])
def test_the_owner_ends_it_at_once(
    lot: str, tmp_path: Path, containment: str, mark: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_LOT", lot)
    child = start(AGENT_COMMAND, tmp_path, containment)
    wait_until(ready.exists, "the agent")
    assert child.poll() is None
    assert child.end().how is EndKind.STOPPED
    assert marked(mark) == []


@pytest.mark.parametrize("command", [AGENT_COMMAND, f"setsid {AGENT_COMMAND} & sleep 600"], ids=["plain", "setsid"])
def test_nothing_outlives_an_owner_that_is_killed(
    command: str, tmp_path: Path, containment: str, mark: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_LOT", "hang")
    owner = subprocess.Popen([sys.executable, "-c", OWNER, command, str(tmp_path / "log"), containment], cwd=tmp_path)
    wait_until(ready.exists, "the agent")
    assert len(marked(mark)) >= 2
    owner.kill()
    owner.wait()
    wait_until(lambda: marked(mark) == [], "the end of everything")


def test_a_killed_reaper_takes_its_namespace_along(tmp_path: Path, mark: str, ready: Path, monkeypatch) -> None:
    if not namespaces_work():
        pytest.skip("no PID namespaces on this machine")
    monkeypatch.setenv("SCRIPTED_LOT", "hang")
    child = start(AGENT_COMMAND, tmp_path, "namespace")
    wait_until(ready.exists, "the agent")
    child._process.kill()
    assert finish(child) == ProcessEnd(EndKind.LOST, problem="its process reaper was killed")
    wait_until(lambda: marked(mark) == [], "the end of everything")


def test_a_command_that_cannot_be_started_is_lost_with_a_reason(tmp_path: Path, containment: str) -> None:
    child = ManagedProcess([str(tmp_path / "missing")], log=tmp_path / "log", containment=containment)
    ending = finish(child)
    assert ending.how is EndKind.LOST
    assert "missing" in ending.problem


def test_a_log_keeps_the_end_of_much(tmp_path: Path, mark: str) -> None:
    child = start("yes 0123456789 | head -c 6000000; echo the end", tmp_path, "auto")
    finish(child)
    assert child.log.stat().st_size <= 2 * (1 << 20)
    assert child.printed().endswith("the end\n")
    assert len(child.printed()) <= 16 * 1024


def test_the_last_line_cannot_move_a_cursor() -> None:
    assert last_line("first\n\x1b[31mred\x07\u202eright\n\n") == "redright"
    assert last_line("\n \n") == ""
