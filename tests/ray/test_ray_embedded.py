"""The embedded Ray of a laptop, in drivers of their own: what it offers, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.ray.ray_head import descendants, is_running, kill_quietly
from tests.scheduler.pool_contract import wait_until

pytestmark = pytest.mark.ray


class Driver:
    """One driver program; everything it ever started is known, to be looked for afterwards."""

    def __init__(self, folder: Path, *arguments: str, below: Sequence[str] = ()) -> None:
        self.spool, self.tmp, self.home = folder / "spool", Path(tempfile.mkdtemp(prefix="ars-")), folder / "home"
        self.home.mkdir()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environ |= {"TMPDIR": str(self.tmp), "HOME": str(self.home)}
        command = [*below, sys.executable, "-m", "tests.ray.driver", "--spool", str(self.spool), *arguments]
        self.process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.family: set[int] = set()

    def wait_for_event(self, event: str) -> dict[str, list[str]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said: dict[str, list[str]] = json.loads(line)
            if said["event"] == event:
                self.remember()
                return said
        raise AssertionError(f"no {event}: {self.process.stderr and self.process.stderr.read()}")

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def drivers(folder: Path) -> Iterator[list[Driver]]:
    made: list[Driver] = []
    yield made
    for driver in made:
        driver.end()


def test_it_offers_the_slots_asked_for_and_writes_nothing_home(folder: Path, drivers: list[Driver]) -> None:
    driver = Driver(folder, "--slots", "1", "--train", "dump\nhang")
    drivers.append(driver)
    said = driver.wait_for_event("connected")
    assert len(said["slots"]) == 1 and said["slots"][0].endswith("/cpu0") and said["problems"] == [""]
    driver.wait_for_event("started")
    facts_path = driver.spool / "lab-1" / "r0001.1" / "out" / "facts.json"
    wait_until(facts_path.exists)
    facts = json.loads(facts_path.read_text())
    assert facts["nice"] == 0 and facts["sigint_blocked"] is False
    assert not [name for name in facts["environ"] if name.startswith("RAY_") or "TOKEN" in name]
    assert not (driver.home / ".ray").exists()


def test_ctrl_c_ends_the_runs_and_ray_and_removes_its_folder(folder: Path, drivers: list[Driver]) -> None:
    driver = Driver(folder, "--train", "child\nhang")
    drivers.append(driver)
    driver.wait_for_event("started")
    wait_until(lambda: driver.remember() or len(list(driver.spool.glob("lab-1/*/out/child.pid"))) == 2)
    assert len(driver.family) > 6
    os.killpg(driver.process.pid, signal.SIGINT)
    driver.wait_for_event("closed")
    assert driver.process.wait(30) == 0
    wait_until(lambda: not driver.left())
    assert list(driver.tmp.glob("arsched-ray-*")) == []


def test_a_killed_driver_leaves_no_process(folder: Path, drivers: list[Driver]) -> None:
    driver = Driver(folder, "--train", "child\nhang")
    drivers.append(driver)
    driver.wait_for_event("started")
    wait_until(lambda: driver.remember() or len(list(driver.spool.glob("lab-1/*/out/child.pid"))) == 2)
    driver.remember()
    driver.process.kill()
    wait_until(lambda: not driver.left())


@pytest.mark.parametrize("moment", ["gcs_server", "raylet", "ray::"])
def test_ctrl_c_while_ray_starts_is_clean(folder: Path, drivers: list[Driver], moment: str) -> None:
    driver = Driver(folder, "--train", "hang")
    drivers.append(driver)

    def is_there() -> bool:
        driver.remember()
        return any(moment in command_of(pid) for pid in driver.family)

    wait_until(is_there)
    os.killpg(driver.process.pid, signal.SIGINT)
    out, errors = driver.process.communicate(timeout=60)
    assert driver.process.returncode == 130, errors
    assert json.loads(out.splitlines()[-1])["event"] == "interrupted"
    assert "Traceback" not in errors
    wait_until(lambda: not driver.left())
    assert list(driver.tmp.glob("arsched-ray-*")) == []


def test_more_slots_than_cores_are_refused_before_ray_starts(folder: Path, drivers: list[Driver]) -> None:
    driver = Driver(folder, "--slots", "4096", "--train", "hang")
    drivers.append(driver)
    said = driver.wait_for_event("problem")
    assert "4096 slots asked for" in said["message"] and said["hint"]
    assert driver.process.wait(30) == 1


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
