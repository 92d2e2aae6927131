"""Deaths on a cluster: of the driver, of a supervisor, of code that grew old. Every attempt is reported in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.domain.errors import PoolProblem
from scheduler.domain.run import Scored, parse_result
from scheduler.domain.slot import Busy, Done, Lost, carries
from tests.processes import is_running
from tests.ray.conftest import TestCluster
from tests.ray.test_ray_pool import RayLab
from tests.scheduler.pool_contract import NONCE, wait_for
from tests.waiting import wait_until

pytestmark = pytest.mark.ray


@pytest.fixture
def lab(cluster: TestCluster, tmp_path: Path) -> Iterator[RayLab]:
    made = RayLab(cluster, tmp_path)
    yield made
    made.pool.close(stop_runs=True)


def judge_pid(cluster: TestCluster, lab_id: str, key: str) -> int:
    return int((cluster.spool / lab_id / key / "judge.pid").read_text())


def start_driver(
    cluster: TestCluster, lab_id: str, train: str, environ: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "tests.ray.driver", "--address", "auto", "--lab", lab_id, "--spool", str(cluster.spool),
        "--train", train,
    ]  # fmt: skip
    environ = cluster.head.environ if environ is None else environ
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_event(driver: subprocess.Popen[str], event: str) -> dict[str, object]:
    assert driver.stdout is not None
    for line in driver.stdout:
        facts: dict[str, object] = json.loads(line)
        if facts["event"] == event:
            return facts
    raise AssertionError(f"the driver ended without reporting {event}")


def test_runs_outlive_a_killed_driver_and_the_next_one_harvests_them(cluster: TestCluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with start_driver(cluster, "lab-killed", f"wait {gate}\nscore 1.5") as driver:
        wait_for_event(driver, "started")
        driver.kill()
    judges = [judge_pid(cluster, "lab-killed", key) for key in ("r0001.1", "r0002.1")]
    pool = cluster.connect("lab-killed")
    try:
        wait_until(lambda: len(pool.poll()) == 2)
        assert all(isinstance(report, Busy) for report in pool.poll())
        assert all(is_running(pid) for pid in judges)
        gate.touch()
        wait_until(lambda: all(isinstance(report, Done) for report in pool.poll()))
        for report in pool.poll():
            assert isinstance(report, Done)
            verdict = parse_result(report.result_text).verdict
            assert isinstance(verdict, Scored) and verdict.val_bpb == 1.5
            pool.acknowledge(report.slot_id, report.run_id, report.attempt)
        assert pool.poll() == ()
        assert not any(is_running(pid) for pid in judges)
    finally:
        pool.close(stop_runs=True)


def test_a_run_that_ended_without_a_driver_is_harvested(cluster: TestCluster) -> None:
    with start_driver(cluster, "lab-alone", "score 1.25") as driver:
        wait_for_event(driver, "started")
        driver.kill()
    pool = cluster.connect("lab-alone")
    try:
        wait_until(lambda: [type(report) for report in pool.poll()] == [Done, Done])
    finally:
        pool.close(stop_runs=True)


def test_leaving_without_stopping_lets_runs_go_on(cluster: TestCluster, lab: RayLab) -> None:
    lab.pool.start(lab.pool.slots()[0].id, lab.endless("r0001"))
    wait_for(lab, "r0001", Busy)
    lab.pool.close(stop_runs=False)
    assert is_running(judge_pid(cluster, lab.lab_id, "r0001.1"))
    lab.pool = cluster.connect(lab.lab_id)
    wait_for(lab, "r0001", Busy)
    lab.release()
    wait_for(lab, "r0001", Done)


def test_a_killed_supervisor_takes_its_judge_along_and_comes_back(cluster: TestCluster, lab: RayLab) -> None:
    slot = lab.pool.slots()[0]
    lab.pool.start(slot.id, lab.endless("r0001"))
    wait_for(lab, "r0001", Busy)
    judge = judge_pid(cluster, lab.lab_id, "r0001.1")
    supervisor = int(Path(f"/proc/{judge}/status").read_text().split("PPid:")[1].split()[0])
    os.kill(supervisor, signal.SIGKILL)
    lost = wait_for(lab, "r0001", Lost)
    assert isinstance(lost, Lost) and lost.slot_id == slot.id
    wait_until(lambda: not is_running(judge))
    lab.pool.acknowledge(slot.id, "r0001", 1)
    wait_until(lambda: not any(slot.problem for slot in lab.pool.slots()))
    lab.pool.start(slot.id, lab.scoring("r0002", 1.8))
    wait_for(lab, "r0002", Done)


def test_a_judge_killed_from_outside_is_lost_and_its_slot_is_free(cluster: TestCluster, lab: RayLab) -> None:
    slot = lab.pool.slots()[0]
    lab.pool.start(slot.id, lab.endless("r0001"))
    wait_for(lab, "r0001", Busy)
    os.kill(judge_pid(cluster, lab.lab_id, "r0001.1"), signal.SIGKILL)
    lost = wait_for(lab, "r0001", Lost)
    assert isinstance(lost, Lost) and "-9" in lost.reason
    lab.pool.start(slot.id, lab.scoring("r0002", 1.8))
    wait_for(lab, "r0002", Done)


def joins(cluster: TestCluster, lab: RayLab) -> bool:
    """Whether a slot came up; another may still be waiting for its place."""
    try:
        lab.pool = cluster.connect(lab.lab_id, placement_s=0.5)
    except PoolProblem:
        return False
    return True


def test_supervisors_of_other_code_are_replaced_once_idle_and_what_they_did_not_report_is_not_lost(
    cluster: TestCluster, lab: RayLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = lab.pool.slots()[0]
    lab.pool.start(slot.id, lab.endless("r0001"))
    wait_for(lab, "r0001", Busy)
    judge = judge_pid(cluster, lab.lab_id, "r0001.1")
    lab.pool.close(stop_runs=False)
    monkeypatch.setattr("scheduler.ray.pool.code_digest", lambda: "0123456789ab")
    wait_until(lambda: joins(cluster, lab))
    problems = sorted(slot.problem for slot in lab.pool.slots())
    assert "starting" in problems[0]  # the one whose place a supervisor of other code still needs
    assert "runs other arsched code" in problems[1]
    assert is_running(judge)
    with pytest.raises(PoolProblem):
        lab.pool.start(slot.id, lab.scoring("r0002", 1.8))
    lab.release()
    done = wait_for(lab, "r0001", Done)
    assert isinstance(done, Done) and carries(done.result_text, NONCE)
    wait_until(lambda: all("runs other arsched code" in slot.problem for slot in lab.pool.slots()))
