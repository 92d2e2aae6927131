"""Joining clusters that are there, are not there, or cannot do what is asked; and nodes that join and die."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scheduler.domain.errors import NoSlots, PoolProblem
from scheduler.domain.slot import Busy, Done, Lost
from scheduler.node.machine import read_machine
from scheduler.ray.pool import RayPool, contract_device
from tests.ray.conftest import TestCluster
from tests.ray.ray_head import RayNodeProcess, free_port, start_node
from tests.ray.test_ray_deaths import judge_pid, start_driver, wait_for_event
from tests.ray.test_ray_pool import RayLab
from tests.scheduler.fake_judge import CONTRACT_JSON
from tests.scheduler.pool_contract import wait_for
from tests.waiting import wait_until

pytestmark = pytest.mark.ray


@pytest.fixture
def lab(cluster: TestCluster, tmp_path: Path) -> Iterator[RayLab]:
    made = RayLab(cluster, tmp_path)
    yield made
    made.pool.close(stop_runs=True)


@contextmanager
def closing_node(cluster: TestCluster) -> Iterator[RayNodeProcess]:
    node = start_node(cluster.head, cpus=1)
    try:
        yield node
    finally:
        node.end()


def test_ray_address_is_enough_to_be_on_the_cluster(cluster: TestCluster, tmp_path: Path) -> None:
    """`start_driver` passes --address auto; the environment holds the address, as on a head node."""
    with start_driver(cluster, "lab-auto", "score 1.5") as driver:
        slots = wait_for_event(driver, "connected")["slots"]
        assert isinstance(slots, list) and len(slots) >= 2
        driver.kill()


def test_the_token_in_the_home_folder_is_used_silently(cluster: TestCluster, tmp_path: Path) -> None:
    environ = {name: value for name, value in cluster.head.environ.items() if not name.startswith("RAY_AUTH")}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(cluster.head.environ["RAY_AUTH_TOKEN"])
    with start_driver(cluster, "lab-token", "score 1.5", {**environ, "HOME": str(tmp_path)}) as driver:
        wait_for_event(driver, "connected")
        driver.kill()
        assert driver.stderr is not None and driver.stderr.read() == ""


def test_nothing_listening_is_a_problem_with_a_way_out() -> None:
    with pytest.raises(PoolProblem, match="no Ray cluster could be joined") as caught:
        RayPool.connect(f"127.0.0.1:{free_port()}", None, CONTRACT_JSON, "lab-1")
    assert "ray start --head" in caught.value.hint


def test_a_contract_for_gpus_on_a_cluster_without_any_says_what_there_is(cluster: TestCluster) -> None:
    with pytest.raises(PoolProblem, match="no node of this Ray cluster offers a GPU") as caught:
        RayPool.connect(cluster.head.address, None, '{"name": "big", "device": "cuda"}', "lab-1", placement_s=0.5)
    assert "2 CPU" in caught.value.message
    assert isinstance(caught.value, NoSlots) and len(caught.value.addresses) == 1


def test_a_contract_for_gpus_on_this_machine_is_refused_before_ray_starts() -> None:
    if read_machine(True).gpus:
        pytest.skip("this machine has a GPU")
    with pytest.raises(PoolProblem, match="needs a GPU") as caught:
        RayPool.connect(None, None, '{"name": "big", "device": "cuda"}', "lab-1")
    assert "--contract cpu" in caught.value.hint


@pytest.mark.parametrize("contract", ["{}", "not json", '{"device": "tpu"}'])
def test_a_contract_without_a_device_is_a_problem(contract: str) -> None:
    with pytest.raises(PoolProblem, match="names no device"):
        contract_device(contract)


def test_two_labs_share_the_slots(cluster: TestCluster, lab: RayLab, tmp_path: Path) -> None:
    slot = lab.pool.slots()[0]
    lab.pool.start(slot.id, lab.endless("r0001"))
    wait_for(lab, "r0001", Busy)
    with start_driver(cluster, "lab-other", "score 1.5") as driver:
        assert "going on" in str(wait_for_event(driver, "problem")["message"])
    assert isinstance(wait_for(lab, "r0001", Busy), Busy)
    lab.release()
    wait_for(lab, "r0001", Done)


def test_a_node_joins_runs_and_dies(cluster: TestCluster, lab: RayLab) -> None:
    before = {slot.node for slot in lab.pool.slots()}
    with closing_node(cluster) as second_node:
        use_and_lose(cluster, lab, second_node, before)


def use_and_lose(cluster: TestCluster, lab: RayLab, second_node: RayNodeProcess, before: set[str]) -> None:
    wait_until(lambda: len([slot for slot in lab.pool.slots() if not slot.problem]) == 3)
    [slot] = [slot for slot in lab.pool.slots() if slot.node not in before]
    lab.pool.start(slot.id, lab.endless("r0001"))
    wait_for(lab, "r0001", Busy)
    judge = judge_pid(cluster, lab.lab_id, "r0001.1")
    second_node.end()
    lost = wait_for(lab, "r0001", Lost)
    assert isinstance(lost, Lost) and "is gone" in lost.reason
    assert slot.id not in {each.id for each in lab.pool.slots()}
    lab.pool.acknowledge(slot.id, "r0001", 1)
    assert lab.pool.poll() == ()
    lab.pool.stop(slot.id, "r0001", 1)
    wait_until(lambda: subprocess.run(["kill", "-0", str(judge)], capture_output=True).returncode != 0)
