"""The doctor on a cluster: nodes held against its file, slots against the lab, hints for those that are missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.doctor import cluster as clusters
from scheduler.doctor.checks import CheckContext, CheckResult, Grade, ok
from scheduler.domain.errors import NoSlots, PoolProblem
from scheduler.lab import choose_contract
from scheduler.node.gpu import Gpu
from scheduler.node.machine import Machine
from scheduler.queue.runtime import PoolOptions
from scheduler.ray.cluster_config import read_cluster_config
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401
from tests.scheduler.memory_pool import MemoryPool, memory_slots

GPU = Gpu(0, "GPU-1234", "Test GPU", "550.1")
CPUS = Machine("boot", "Test CPU", (0, 1), 2)


def cluster(monkeypatch: pytest.MonkeyPatch, folder: Path, pool: MemoryPool) -> dict[str, CheckResult]:
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setattr("scheduler.ray.pool.RayPool.connect", lambda *_, **__: pool)
    context = CheckContext(ok("lab", ""), choose_contract("cpu"), "cache-1")
    results = list(clusters.check_cluster(context, PoolOptions("auto"), lambda line: None, folder))
    assert pool.closed
    return {one.subject: one for one in results}


def test_a_cluster_is_held_against_its_file_and_its_slots_against_the_lab(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cluster.yaml").write_text("provider: {type: local, head_ip: a, worker_ips: [b, c]}\n")
    fine, stale, broken = memory_slots(3)
    pool = MemoryPool([fine, replace(stale, cache_digest="cache-2"), replace(broken, problem="disk full", node="n2")])
    found = cluster(monkeypatch, tmp_path, pool)
    assert "2 nodes with 3 slots" in found["cluster"].message and "names 3 nodes" in found["cluster"].message
    assert found["cluster"].grade is Grade.PROBLEM
    assert found[fine.id].grade is Grade.OK
    assert "the lab's is cache-1" in found[stale.id].message
    assert found[broken.id].message == "disk full"


def test_the_notes_of_slots_are_said_and_that_nodes_know_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (slot,) = memory_slots(1, device="cuda")
    pool = MemoryPool([replace(slot, notes=("another process holds memory of it",))])
    monkeypatch.setattr("scheduler.ray.pool.RayPool.connect", lambda *_, **__: pool)
    context = CheckContext(ok("lab", ""), choose_contract("standard"), "cache-1")
    found = list(clusters.check_cluster(context, PoolOptions("auto"), lambda line: None, tmp_path))
    of_slot = [(one.grade, one.message) for one in found if one.subject == slot.id]
    assert of_slot == [(Grade.OK, slot.device_name), (Grade.NOTE, "another process holds memory of it")]
    assert any("arsched doctor --quick --contract standard" in one.hint for one in found)


def test_a_node_that_offers_no_gpu_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its driver may have ended: Ray counts none then, and says nothing."""
    pool = MemoryPool(memory_slots(1))
    monkeypatch.setattr(pool, "bare_nodes", lambda: ("h3",))
    found = cluster(monkeypatch, tmp_path, pool)
    assert found["h3"].grade is Grade.NOTE and "offers no core" in found["h3"].message and found["h3"].hint


def test_slots_of_two_kinds_are_worth_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pool = MemoryPool([*memory_slots(1, pool="a"), *memory_slots(1, node="other", pool="b")])
    found = cluster(monkeypatch, tmp_path, pool)
    assert found["pools"].grade is Grade.NOTE and "a; b" in found["pools"].message


def test_a_cluster_that_cannot_be_joined_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PoolProblem("no Ray cluster could be joined at here", "ray start --head")

    monkeypatch.setattr("scheduler.ray.pool.RayPool.connect", refuse)
    context = CheckContext(ok("lab", ""), choose_contract("cpu"))
    (result,) = clusters.check_cluster(context, PoolOptions("auto"), lambda line: None, tmp_path)
    assert result.grade is Grade.PROBLEM and result.hint == "ray start --head"


@pytest.mark.parametrize("workers", [["b"], []])
def test_where_no_slot_came_up_the_nodes_that_are_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: list[str]
) -> None:
    """A head without a GPU has none before its workers are there."""
    due = {"provider": {"type": "local", "head_ip": "a", "worker_ips": workers}}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(due))
    monkeypatch.setenv("HOME", str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        problem = NoSlots("no node of this Ray cluster offers a GPU", "look")
        problem.addresses = frozenset({"a"})
        raise problem

    monkeypatch.setattr("scheduler.ray.pool.RayPool.connect", refuse)
    context = CheckContext(ok("lab", ""), choose_contract("cpu"))
    found = list(clusters.check_cluster(context, PoolOptions("auto"), lambda line: None, tmp_path))
    assert [one.grade for one in found] == [Grade.PROBLEM] * (3 if workers else 1)
    assert [one.subject for one in found] == ["cluster", *(["cluster", "b"] if workers else [])]


def test_a_cluster_file_that_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("provider: [")
    found = cluster(monkeypatch, tmp_path, MemoryPool(memory_slots(1)))
    assert found["cluster"].grade is Grade.PROBLEM and "not YAML" in found["cluster"].message
    (result,) = clusters.check_cluster_file(tmp_path)
    assert result.grade is Grade.NOTE and "not YAML" in result.message


def test_a_missing_node_comes_with_the_line_that_starts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(
        "provider: {type: local, head_ip: a, worker_ips: [b]}\n"
        "worker_start_ray_commands: [ray stop, 'ray start --address=$RAY_HEAD_IP:6379']\n"
    )
    found = cluster(monkeypatch, tmp_path, MemoryPool(memory_slots(1, node="a")))
    assert "run: ray start --address=a:6379" in found["b"].hint
    assert "a" not in found


@pytest.mark.parametrize(
    ("status", "words", "hint"),
    [
        ("uninitialized", "has not begun", "tail -f /tmp/ray/session_latest/logs/monitor.out"),
        ("waiting-for-ssh", "log in there by SSH", "ssh -i ~/ray_bootstrap_key.pem me@b"),
        ("syncing-files", "still being set up", "monitor.out"),
        ("setting-up", "still being set up", "monitor.out"),
        ("update-failed", "its setup failed", "grep -A 15 b "),
        ("up-to-date", "its Ray has ended", "run: ray start"),
        ("something new", "not in the cluster", "run: ray start"),
    ],
)
def test_a_missing_node_comes_with_how_far_the_head_got_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: str, words: str, hint: str
) -> None:
    (tmp_path / "home").mkdir()
    due = {
        "cluster_name": "gpus",
        "auth": {"ssh_user": "me"},
        "provider": {"type": "local", "head_ip": "a", "worker_ips": ["b", "c"]},
        "worker_start_ray_commands": ["ray start --address=$RAY_HEAD_IP:6379"],
    }
    (tmp_path / "home" / "ray_bootstrap_config.yaml").write_text(json.dumps(due))
    (tmp_path / "ray").mkdir()
    states = {address: {"tags": {"ray-node-status": status}} for address in "bc"}
    (tmp_path / "ray" / "cluster-gpus.state").write_text(json.dumps(states))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pool = MemoryPool([*memory_slots(1, node="a"), *memory_slots(1, node="c")])
    found = cluster(monkeypatch, tmp_path, pool)
    assert found["cluster"].message.endswith("names 3 nodes") and found["cluster"].hint.startswith("b:")
    assert "c" not in found and found["b"].grade is Grade.PROBLEM
    assert words in found["b"].message and hint in found["b"].hint


@pytest.mark.parametrize("text", ["", "[]", "{", '{"b": 1}', '{"b": {}}'])
def test_a_state_file_of_another_ray_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster-gpus.state").write_text(text)
    assert not any(clusters.read_states("gpus", tmp_path).values())
    assert clusters.read_states("none", tmp_path) == {}


def test_nodes_under_other_addresses_than_listed_are_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("provider: {type: local, head_ip: a, worker_ips: [b]}\n")
    pool = MemoryPool([*memory_slots(1, node="a"), *memory_slots(1, node="x")])
    found = cluster(monkeypatch, tmp_path, pool)
    assert found["cluster"].grade is Grade.NOTE and "b in cluster.yaml came up as x" in found["cluster"].message


def test_a_rented_cluster_has_no_list_to_compare_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("provider: {type: aws, region: here}\n")
    assert cluster(monkeypatch, tmp_path, MemoryPool(memory_slots(1)))["cluster"].grade is Grade.OK


TYPES = "{head: {resources: {}}, gpus: {min_workers: 2, max_workers: 4}, cpus: {min_workers: 1}}"


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        (f"provider: {{type: aws}}\navailable_node_types: {TYPES}\nhead_node_type: head\nmax_workers: 9", 4),
        (f"provider: {{type: gcp}}\navailable_node_types: {TYPES}\nmax_workers: 2", 3),
        ("provider: {type: aws}\navailable_node_types: {head: {}, gpus: {max_workers: 4}}", 1),
        ("provider: {type: aws}\navailable_node_types: {head: 3, gpus: {min_workers: many}}", 1),
        ("kind: RayCluster\nspec: {workerGroupSpecs: [{replicas: 2, minReplicas: 1}, {minReplicas: 1}]}", 4),
        ("kind: RayCluster\nspec: {workerGroupSpecs: [{replicas: 1, numOfHosts: 2}, 7]}", 3),
        ("kind: RayCluster\nspec: {}", 1),
    ],
)
def test_nodes_that_an_autoscaler_keeps_are_counted_from_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, nodes: int
) -> None:
    (tmp_path / "cluster.yaml").write_text(text)

    def with_nodes(count: int) -> CheckResult:
        slots = [slot for number in range(count) for slot in memory_slots(1, node=f"n{number}")]
        return cluster(monkeypatch, tmp_path, MemoryPool(slots))["cluster"]

    assert with_nodes(nodes).grade is with_nodes(nodes + 1).grade is Grade.OK
    if nodes == 1:
        return
    missing = with_nodes(nodes - 1)
    assert missing.grade is Grade.PROBLEM and f"asks for {nodes} at least" in missing.message
    assert all(words in missing.hint for words in ("autoscaler", "ray status", "monitor.out", "kubectl get pods"))


@pytest.mark.parametrize("place", ["aws/cluster.yaml", "gcp/cluster.yaml", "kubernetes/raycluster.yaml"])
def test_the_shipped_files_of_clouds_say_how_many_nodes_they_keep(place: str) -> None:
    config = read_cluster_config(Path(__file__).resolve().parents[2] / "deploy" / place)
    assert config.nodes == 2 and not config.addresses


@pytest.mark.parametrize(("nodes", "grade"), [(1, Grade.PROBLEM), (3, Grade.OK), (4, Grade.OK)])
def test_a_rented_cluster_lacks_the_nodes_that_its_file_keeps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nodes: int, grade: Grade
) -> None:
    (tmp_path / "cluster.yaml").write_text(
        "provider: {type: aws}\navailable_node_types: {head: {}, worker: {min_workers: 2}}\n"
    )
    pool = MemoryPool([slot for number in range(nodes) for slot in memory_slots(1, node=f"n{number}")])
    found = cluster(monkeypatch, tmp_path, pool)["cluster"]
    assert found.grade is grade
    assert grade is Grade.OK or ("asks for 3 at least" in found.message and "monitor.out" in found.hint)


def test_a_file_of_the_folder_that_is_no_cluster_s_hides_no_missing_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    due = {"provider": {"type": "local", "head_ip": "a", "worker_ips": ["b", "a", "b", "x" * 80]}}
    (tmp_path / "home" / "ray_bootstrap_config.yaml").write_text(json.dumps(due))
    (tmp_path / "cluster.yaml").write_text("a:\n\tb: c\n")
    found = cluster(monkeypatch, tmp_path, MemoryPool(memory_slots(1, node="a")))
    assert found["cluster"].grade is Grade.PROBLEM and "names 3 nodes" in found["cluster"].message
    assert found["cluster.yaml"].grade is Grade.NOTE and "not YAML" in found["cluster.yaml"].message
    assert {"b", "x" * 80} <= found.keys()


def test_on_the_head_the_file_that_ray_up_left_says_which_nodes_are_due(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A lab there has no cluster.yaml, or a clone's, as shipped."""
    (tmp_path / "home").mkdir()
    due = {"provider": {"type": "local", "head_ip": "a", "worker_ips": ["b", "c"]}}
    (tmp_path / "home" / "ray_bootstrap_config.yaml").write_text(json.dumps(due))
    for shipped in (False, True):
        if shipped:
            shutil.copy(Path(__file__).resolve().parents[2] / "cluster.yaml", tmp_path)
        found = cluster(monkeypatch, tmp_path, MemoryPool(memory_slots(2)))
        assert found["cluster"].grade is Grade.PROBLEM and "names 3 nodes" in found["cluster"].message
        assert "monitor.out" in found["b"].hint, "workers are set up after `ray up` has returned"


def test_the_shipped_cluster_file_is_left_alone_and_an_edited_one_is_checked(tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "cluster.yaml"
    assert list(clusters.check_cluster_file(shipped.parent)) == []
    assert list(clusters.check_cluster_file(tmp_path)) == []
    (tmp_path / "cluster.yaml").write_text(shipped.read_text().replace("192.0.2.10 ", "10.0.0.1"))
    assert {one.grade for one in clusters.check_cluster_file(tmp_path)} == {Grade.NOTE}
    (tmp_path / "cluster.yaml").write_text(shipped.read_text().replace("worker_ips: []", "worker_ips: [10.0.0.2]"))
    assert any("192.0.2.10" in one.message for one in clusters.check_cluster_file(tmp_path)), "its head was left out"
