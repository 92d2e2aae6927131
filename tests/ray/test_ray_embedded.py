"""The embedded Ray of a laptop, in drivers of their own: what it offers, and that it leaves nothing behind.

One driver is shared, the last test that uses it ends it. It runs below a `uv run`, as an agent's loop does: Ray's
workers are this program's own Python all the same. No uv is needed: Ray looks for a parent whose command line begins
with a program called uv, and `run`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.processes import command_of, descendants, is_running
from tests.ray.ray_head import kill_quietly
from tests.scheduler.fake_judge import CONTRACT_JSON
from tests.waiting import wait_until

pytestmark = pytest.mark.ray

CONNECTIONS = {"embedded": "", "join": "127.0.0.1:1"}
RUNTIME_ENV = "print(json.dumps(ray._private.worker._maybe_modify_runtime_env(None, False)))"
PROBE = f"""
import json, sys
from scheduler.ray import cluster, pool
def show(ray, *rest):
    {RUNTIME_ENV}
    sys.exit(0)
cluster.join_cluster = cluster.start_embedded = show
pool.RayPool.connect(sys.argv[1] or None, 1, {CONTRACT_JSON!r}, "lab-1")
"""
STARTED = "dump\nchild\nhang"  # every run's train.py


class Driver:
    """One driver program; everything it ever started is known, to be looked for afterwards."""

    def __init__(self, folder: Path, *arguments: str, below: Sequence[str] = (), tmp: Path | None = None) -> None:
        self.spool, self.home = folder / "spool", folder / "home"
        self.tmp = tmp or Path(tempfile.mkdtemp(prefix="ars-"))
        self.home.mkdir()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environ |= {"TMPDIR": str(self.tmp), "HOME": str(self.home)}
        arguments = ("--spool", str(self.spool), "--train", STARTED, *arguments)
        self.process = subprocess.Popen(
            [*below, sys.executable, "-m", "tests.ray.driver", *arguments], env=environ,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.events: dict[str, dict[str, list[str]]] = {}
        self.family: set[int] = set()

    def wait_for_event(self, event: str) -> dict[str, list[str]]:
        assert self.process.stdout is not None
        while event not in self.events:
            line = self.process.stdout.readline()
            assert line, f"no {event}: {self.process.stderr and self.process.stderr.read()}"
            facts = json.loads(line)
            self.events[facts["event"]] = facts
        self.remember()
        return self.events[event]

    def wait_for_children(self) -> None:
        """The run on every slot has started its child."""
        slots = len(self.wait_for_event("connected")["slots"])
        self.wait_for_event("started")
        wait_until(lambda: self.remember() or len(list(self.spool.glob("lab-1/*/out/child.pid"))) == slots)
        self.remember()

    def remember(self) -> None:
        self.family |= set(descendants(self.process.pid))

    def left(self) -> list[int]:
        return [pid for pid in self.family if is_running(pid)]

    def end(self) -> None:
        self.remember()
        for pid in [self.process.pid, *self.family]:
            kill_quietly(pid)
        self.process.communicate()
        wait_until(lambda: not self.left())
        shutil.rmtree(self.tmp, ignore_errors=True)


@pytest.fixture(scope="module")
def uv_run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What precedes a command to have it run below `uv run`.

    It is bash with a script called run, and cannot start what Ray would make of it: there is no program --python.
    """
    folder = tmp_path_factory.mktemp("uv")
    (folder / "uv").symlink_to(shutil.which("bash") or "/bin/bash")
    (folder / "run").write_text('test "$1" = --no-project && shift\n"$@"\nexit $?\n')
    return ["env", f"PATH={folder}:{os.environ['PATH']}", str(folder / "uv"), "run", "--no-project"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, uv_run: list[str]) -> Iterator[Driver]:
    """A driver on two slots, each with a run that started a child."""
    driver = Driver(tmp_path_factory.mktemp("shared"), "--slots", "2", below=uv_run)
    yield driver
    driver.end()


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def start(*arguments: str, tmp: Path | None = None) -> Driver:
        made.append(Driver(tmp_path, *arguments, tmp=tmp))
        return made[-1]

    yield start
    for driver in made:
        driver.end()


@pytest.mark.parametrize("way", CONNECTIONS)
def test_ray_is_imported_with_its_hook_for_uv_turned_off(uv_run: list[str], way: str) -> None:
    environ = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1"}
    command = [*uv_run, sys.executable, "-c", PROBE, CONNECTIONS[way]]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert json.loads(done.stdout) is None, done.stdout + done.stderr


def test_the_hook_would_take_this_parent_for_uv(uv_run: list[str]) -> None:
    environ = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1"}
    command = [*uv_run, sys.executable, "-c", f"import ray, json; {RUNTIME_ENV}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert "--no-project" in json.loads(done.stdout)["py_executable"], done.stderr


def test_more_slots_than_cores_are_refused_before_ray_starts(start_driver: Callable[..., Driver]) -> None:
    driver = start_driver("--slots", "4096")
    problem = driver.wait_for_event("problem")
    assert "4096 slots asked for" in problem["message"] and problem["hint"]
    assert driver.process.wait(30) == 1


@pytest.mark.parametrize("stage", ["gcs_server", "raylet", "ray::"])
def test_ctrl_c_while_ray_starts_is_clean(start_driver: Callable[..., Driver], stage: str) -> None:
    driver = start_driver("--slots", "1")

    def is_there() -> bool:
        driver.remember()
        return any(stage in command_of(pid) for pid in driver.family)

    wait_until(is_there)
    os.killpg(driver.process.pid, signal.SIGINT)
    out, errors = driver.process.communicate(timeout=60)
    assert driver.process.returncode == 130, errors
    assert json.loads(out.splitlines()[-1])["event"] == "interrupted"
    assert "Traceback" not in errors
    wait_until(lambda: not driver.left())
    assert list(driver.tmp.glob("arsched-ray-*")) == []


def test_below_a_long_tmpdir_ray_starts_in_a_short_place(start_driver: Callable[..., Driver], tmp_path: Path) -> None:
    long = tmp_path / "slurm_jobdir" / "1355700" / "a-batch-system-s-own-folder" / "tmp.node0016"
    long.mkdir(parents=True)
    assert len(str(long)) > 92
    driver = start_driver("--slots", "1", tmp=long)
    assert driver.wait_for_event("connected")["problems"] == [""]
    found = [re.search(r"/tmp/arsched-ray-\w+", command_of(pid)) for pid in driver.family]
    (folder,) = {match[0] for match in found if match}
    driver.wait_for_children()
    os.killpg(driver.process.pid, signal.SIGINT)
    driver.wait_for_event("closed")
    wait_until(lambda: not driver.left() and not Path(folder).exists())


def test_a_killed_driver_leaves_no_process(start_driver: Callable[..., Driver]) -> None:
    driver = start_driver("--slots", "1")
    driver.wait_for_children()
    driver.process.kill()
    wait_until(lambda: not driver.left())


def test_it_offers_the_slots_asked_for_and_writes_nothing_home(shared: Driver) -> None:
    connected = shared.wait_for_event("connected")
    assert [slot.rpartition("/")[2] for slot in connected["slots"]] == ["cpu0", "cpu1"]
    assert connected["problems"] == ["", ""]
    shared.wait_for_children()
    assert not (shared.home / ".ray").exists()


def test_a_judge_gets_nothing_of_rays(shared: Driver) -> None:
    shared.wait_for_children()
    facts = json.loads((shared.spool / "lab-1" / "r0001.1" / "out" / "facts.json").read_text())
    assert facts["nice"] == 0 and facts["sigint_blocked"] is False
    assert not [name for name in facts["environ"] if name.startswith("RAY_") or "TOKEN" in name]


def test_below_uv_rays_processes_inherit_that_its_hook_is_off(shared: Driver) -> None:
    shared.wait_for_children()
    assert command_of(shared.process.pid).partition("/uv ")[2].startswith("run --no-project")
    (raylet,) = [pid for pid in shared.family if "/raylet/raylet " in command_of(pid)]  # every worker's parent
    assert b"RAY_ENABLE_UV_RUN_RUNTIME_ENV=0" in Path(f"/proc/{raylet}/environ").read_bytes().split(b"\0")


def test_ctrl_c_ends_the_runs_and_ray_and_removes_its_folder(shared: Driver) -> None:
    """The last one: it ends the shared driver."""
    shared.wait_for_children()
    assert len(shared.family) > 6
    os.killpg(shared.process.pid, signal.SIGINT)
    shared.wait_for_event("closed")
    wait_until(lambda: not shared.left())
    assert shared.process.wait(30) == 0
    assert list(shared.tmp.glob("arsched-ray-*")) == []
