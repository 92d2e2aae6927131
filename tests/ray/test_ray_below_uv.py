"""Commands run below any `uv run`, as an agent's loop does: Ray's workers are this program's own Python all the same.

No uv is needed: Ray looks for a parent whose command line begins with a program called uv, and `run`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.test_ray_embedded import Driver, command_of
from tests.scheduler.fake_judge import CONTRACT_JSON

pytestmark = pytest.mark.ray

ROADS = {"embedded": "", "join": "127.0.0.1:1"}
PROBE = f"""
import json, sys
from scheduler.ray import pool as ray_pool
def show(ray, *rest):
    print(json.dumps(ray._private.worker._maybe_modify_runtime_env(None, False)))
    sys.exit(0)
ray_pool.join_cluster = ray_pool.start_embedded = show
ray_pool.RayPool.connect(sys.argv[1] or None, 1, {CONTRACT_JSON!r}, "lab-1")
"""


@pytest.fixture
def uv_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stands before a command to have it run below `uv run`.

    It is bash with a script called run, and cannot start what Ray would make of it: there is no program --python.
    """
    (tmp_path / "uv").symlink_to(shutil.which("bash") or "/bin/bash")
    (tmp_path / "run").write_text('test "$1" = --no-project && shift\n"$@"\nexit $?\n')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1")
    return [str(tmp_path / "uv"), "run", "--no-project"]


@pytest.fixture
def driver(tmp_path: Path, uv_run: list[str]) -> Iterator[Driver]:
    made = Driver(tmp_path, "--slots", "1", "--train", "hang", below=uv_run)
    yield made
    made.end()


@pytest.mark.parametrize("road", ROADS)
def test_ray_is_imported_with_its_hook_for_uv_turned_off(uv_run: list[str], road: str) -> None:
    done = subprocess.run([*uv_run, sys.executable, "-c", PROBE, ROADS[road]], capture_output=True, text=True)
    assert json.loads(done.stdout) is None, done.stdout + done.stderr


def test_the_hook_would_take_this_parent_for_uv(uv_run: list[str]) -> None:
    bare = "import ray, json; print(json.dumps(ray._private.worker._maybe_modify_runtime_env(None, False)))"
    done = subprocess.run([*uv_run, sys.executable, "-c", bare], capture_output=True, text=True)
    assert "--no-project" in json.loads(done.stdout)["py_executable"], done.stderr


def test_slots_come_and_their_processes_inherit_the_setting(driver: Driver, uv_run: list[str]) -> None:
    assert driver.wait_for_event("connected")["problems"] == [""]
    assert command_of(driver.process.pid).startswith(" ".join(uv_run))
    driver.remember()
    (raylet,) = [pid for pid in driver.family if "/raylet/raylet " in command_of(pid)]  # every worker's parent
    assert b"RAY_ENABLE_UV_RUN_RUNTIME_ENV=0" in Path(f"/proc/{raylet}/environ").read_bytes().split(b"\0")
