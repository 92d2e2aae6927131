"""`arsched prepare --all-nodes`: every node from the first one's cache, errors per node, nothing left behind.

Nodes are folders here: each has a cache root of its own, and runs the harness's real program. Ray itself is tried by
tests/cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cache import open_cache, verify_cache
from harness.contract import load_contract
from harness.prepare.cli import main as prepare
from scheduler.cli.main import main
from scheduler.domain.errors import PoolProblem
from scheduler.node import preparer
from scheduler.node.preparer import NodePreparer
from scheduler.ray import preparation
from scheduler.ray.cluster import ActorGone, RayNode, distinguished
from scheduler.ray.preparation import ClusterPreparation, NodeOutcome, NodeSource
from tests.harness.small_corpus import write_contract, write_corpus

ROOT = Path(__file__).resolve().parents[2]


class FolderNode:
    """A node with a cache root of its own; `fails` is called before each of its answers."""

    def __init__(self, root: Path, fails: Callable[[str], None] = lambda method: None) -> None:
        self.root, self.fails, self.preparer, self.received, self.killed = root, fails, NodePreparer(), 0, False
        self.hangs = False


class FolderCluster:
    """What ClusterPreparation asks of a RayCluster; calls are made when their answer is fetched."""

    def __init__(self, nodes: dict[str, FolderNode]) -> None:
        self.found = nodes

    def own_node(self) -> str:
        return "first"

    def nodes(self) -> tuple[RayNode, ...]:
        return (RayNode("first", "head", 1, 0, "10.0.0.1"), *(RayNode(n, n, 1, 0, f"a-{n}") for n in self.found))

    def place_preparer(self, node_id: str) -> FolderNode:
        return self.found[node_id]

    def ask(self, actor: FolderNode, method: str, *arguments: object) -> tuple[FolderNode, str, tuple[object, ...]]:
        if method == "stop":
            self.answer((actor, method, arguments), 0.0)
        return actor, method, arguments

    def answered(self, calls: list[Any], timeout_s: float) -> list[Any]:
        return [call for call in calls if not call[0].hangs]

    def answer(self, call: tuple[FolderNode, str, tuple[object, ...]], timeout_s: float) -> Any:
        node, method, arguments = call
        node.fails(method)
        node.received += method == "receive"
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("ARSCHED_CACHE", str(node.root))
            return getattr(node.preparer, method)(*arguments)

    def kill(self, actor: FolderNode) -> None:
        actor.killed = True


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeSource:
    """The first node's cache. The corpus is gone: no other node could make it."""
    monkeypatch.setattr(preparer, "WAIT_S", 0.1)
    monkeypatch.setattr(preparation, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(preparation, "COPIES_AT_ONCE", 2)
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "first"))
    write_corpus(tmp_path)
    path = write_contract(tmp_path, corpus__root=str(tmp_path / "corpus"))
    assert prepare(["--contract", str(path)]) == 0
    shutil.rmtree(tmp_path / "corpus")
    contract = load_contract(str(path))
    cache = open_cache(contract)
    return NodeSource(contract.to_json(), cache.directory, cache.digest)


def run(source: NodeSource, nodes: dict[str, FolderNode], *options: str) -> dict[str, NodeOutcome]:
    news: list[tuple[str, str]] = []
    cluster: Any = FolderCluster(nodes)
    outcomes = ClusterPreparation(cluster, source, options, lambda *said: news.append(said)).run()
    assert all(node.killed for node in nodes.values())
    assert {name for name, _ in news} == nodes.keys() and len(outcomes) == len(nodes)
    assert not [path for node in nodes.values() for path in node.root.glob("arriving-*")], "what arrived is cleared"
    return {one.node: one for one in outcomes}


def whole(source: NodeSource, node: FolderNode) -> bool:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ARSCHED_CACHE", str(node.root))
        (node.root / "contract.json").write_text(source.contract_json)
        cache = open_cache(load_contract(str(node.root / "contract.json")))
        verify_cache(cache, full=True)
        return cache.digest == source.digest


def test_every_node_gets_the_first_ones_data(source: NodeSource, tmp_path: Path) -> None:
    nodes = {name: FolderNode(tmp_path / name) for name in "abc"}
    assert {one.digest for one in run(source, nodes).values()} == {source.digest}
    assert all(whole(source, node) for node in nodes.values())
    again = {name: FolderNode(tmp_path / name) for name in "abc"}
    assert not any(one.error for one in run(source, again).values())
    assert not any(node.received for node in again.values()), "what is there is not copied again"


def test_a_shared_folder_is_not_copied_to(source: NodeSource, tmp_path: Path) -> None:
    node = FolderNode(tmp_path / "first")
    assert run(source, {"a": node})["a"].digest == source.digest
    assert node.received == 0


@pytest.mark.parametrize("damage", ["gone", "short", "manifest"])
def test_a_node_whose_cache_lost_something_gets_it_anew(source: NodeSource, tmp_path: Path, damage: str) -> None:
    """It may have no other way to the data."""
    node = FolderNode(tmp_path / "a")
    run(source, {"a": node})
    path = next(node.root.glob("*/manifest.json" if damage == "manifest" else "*/train/rows.u16"))
    path.chmod(0o644)
    path.unlink() if damage == "gone" else path.write_text("{")
    again = FolderNode(tmp_path / "a")
    assert not run(source, {"a": again})["a"].error
    assert again.received and whole(source, again)


def test_empty_files_arrive_too(source: NodeSource, tmp_path: Path) -> None:
    """A kernel is a package of Python, in which they mean something."""
    kernel = tmp_path / "kernel-here"
    (kernel / "build").mkdir(parents=True)
    (kernel / "build" / "__init__.py").touch()
    arrived: list[tuple[str, bytes]] = []
    node = FolderNode(tmp_path / "a")
    receive = node.preparer.receive
    node.preparer.receive = lambda name, data: (arrived.append((name, data)), receive(name, data))[1]  # type: ignore[method-assign, func-returns-value]
    run(replace(source, kernel=kernel), {"a": node})
    assert ("kernel/build/__init__.py", b"") in arrived
    assert whole(source, node)


@pytest.mark.parametrize("folder", ["caches", "~/caches"])
def test_a_cache_folder_as_people_write_it_is_one_for_every_program(
    source: NodeSource, tmp_path: Path, folder: str
) -> None:
    """Those that are started in folders of their own find what `arsched prepare` made."""
    shutil.copytree(source.cache, tmp_path / "brought" / source.cache.name)
    (tmp_path / "contract.json").write_text(source.contract_json)
    environ = {**os.environ, "ARSCHED_CACHE": folder, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for verb, *rest in (("prepare", "--from", "brought"), ("doctor", "--quick", "--json")):
        command = [sys.executable, "-m", "scheduler", verb, "--contract", "contract.json", *rest]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
        assert verb == "doctor" or done.returncode == 0, done.stderr
    (found,) = [one for one in json.loads(done.stdout)["findings"] if one["about"] == "cache"]
    assert found["grade"] == "ok" and str(tmp_path / "caches") in found["said"]


def test_one_node_fails_and_the_others_do_not(source: NodeSource, tmp_path: Path) -> None:
    def die(method: str) -> None:
        if method == "receive":
            raise ActorGone("the node died")

    def refuse(method: str) -> None:
        if method == "begin":
            raise PoolProblem("no space left", "make room")

    (tmp_path / "file").write_text("")
    nodes = {
        "dead": FolderNode(tmp_path / "dead", die),
        "full": FolderNode(tmp_path / "full", refuse),
        "odd": FolderNode(tmp_path / "file" / "below"),
        "fine": FolderNode(tmp_path / "fine"),
    }
    nodes["odd"].root = tmp_path / "file"
    found = run(source, nodes)
    assert not found["fine"].error and whole(source, nodes["fine"])
    assert "the node died" in found["dead"].error and "same command" in found["dead"].hint
    assert found["full"] == NodeOutcome("full", error="no space left", hint="make room")
    assert "cannot be written" in found["odd"].error and "ARSCHED_CACHE" in found["odd"].hint


def test_a_node_that_never_answers_is_given_up_and_the_others_are_not(
    source: NodeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {"stuck": FolderNode(tmp_path / "stuck"), "fine": FolderNode(tmp_path / "fine")}
    nodes["stuck"].hangs = True
    monkeypatch.setattr(preparation, "SILENT_S", 0.5)
    found = run(source, nodes)
    assert "it has not answered for" in found["stuck"].error and found["stuck"].hint
    assert not found["fine"].error and whole(source, nodes["fine"])


def test_a_node_with_other_data_is_an_error(source: NodeSource, tmp_path: Path) -> None:
    node = FolderNode(tmp_path / "a")
    run(source, {"a": node})
    wrong = NodeSource(source.contract_json, source.cache, "f" * 64)
    found = run(wrong, {"a": FolderNode(tmp_path / "a")})["a"]
    assert "it would get no run" in found.error and source.cache.name in found.hint


def test_what_is_damaged_on_the_way_is_an_error(source: NodeSource, tmp_path: Path) -> None:
    node = FolderNode(tmp_path / "a")
    receive = node.preparer.receive
    node.preparer.receive = lambda name, data: receive(name, data[:-1])  # type: ignore[method-assign]
    assert "exist" in run(source, {"a": node})["a"].error, "the corpus, of which it would be made then"


def test_verify_reads_what_is_there_and_copies_nothing(source: NodeSource, tmp_path: Path) -> None:
    nodes = {name: FolderNode(tmp_path / name) for name in "ab"}
    run(source, {"a": nodes["a"]})
    found = run(source, {name: FolderNode(tmp_path / name) for name in "ab"}, "--verify")
    assert not found["a"].error and "not prepared" in found["b"].error
    rows = next((tmp_path / "a").glob("*/train/rows.u16"))
    rows.chmod(0o644)
    rows.write_bytes(bytes([rows.read_bytes()[0] ^ 1]) + rows.read_bytes()[1:])
    assert "damaged" in run(source, {"a": FolderNode(tmp_path / "a")}, "--verify")["a"].error


@pytest.mark.parametrize(("workers", "missing"), [(["b"], 0), (["b", "c", "d"], 2)])
def test_nodes_that_are_not_there_yet_are_said(
    source: NodeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: list[str], missing: int
) -> None:
    """`ray up` is back minutes before them."""
    (tmp_path / "lab").mkdir()
    monkeypatch.chdir(tmp_path / "lab")
    monkeypatch.setenv("HOME", str(tmp_path))
    due = {"provider": {"type": "local", "head_ip": "a", "worker_ips": workers}}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(due))
    (tmp_path / "contract.json").write_text(source.contract_json)

    class Joined(FolderCluster):
        def leave(self) -> None:
            pass

    monkeypatch.setattr("scheduler.ray.pool.join", lambda address: Joined({"b": FolderNode(tmp_path / "b")}))
    done = CliRunner().invoke(main, ["prepare", "--all-nodes", "--json", "--contract", str(tmp_path / "contract.json")])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["missing"] == missing
    assert (f"{missing} nodes of cluster.yaml not in the cluster" in done.stderr) == bool(missing)


def test_an_interrupt_ends_what_nodes_do(source: NodeSource, tmp_path: Path) -> None:
    def interrupt(method: str) -> None:
        if method == "poll":
            raise KeyboardInterrupt

    node = FolderNode(tmp_path / "a", interrupt)
    cluster: Any = FolderCluster({"a": node})
    with pytest.raises(KeyboardInterrupt):
        ClusterPreparation(cluster, source, (), lambda *said: None).run()
    assert node.killed and not list(node.root.glob("arriving-*"))
    process = node.preparer._process
    assert process is not None and process.wait(60) != 0


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x"])
def test_nothing_is_written_outside_the_folder_that_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "caches"))
    with pytest.raises(PoolProblem):
        NodePreparer().receive(name, b"x")
    assert not (tmp_path / "caches").exists() and not (tmp_path / "x").exists()


def test_what_a_killed_preparation_left_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path))
    for name, age_s in (("arriving-old", 2 * preparer.ABANDONED_S), ("arriving-new", 0.0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (os.stat(tmp_path).st_mtime - age_s,) * 2)
    node = NodePreparer()
    node.receive("x/y", b"data")
    assert not (tmp_path / "arriving-old").exists() and (tmp_path / "arriving-new").exists()
    node.stop()
    assert [path.name for path in tmp_path.glob("arriving-*")] == ["arriving-new"]


def test_hosts_of_one_name_are_distinguished_by_their_addresses_where_these_differ() -> None:
    hosts = [
        ("gpu", "10.0.0.1"),
        ("gpu", "10.0.0.2"),
        ("other", "y"),
        ("same", "z"),
        ("same", "z"),
        ("bare", ""),
        ("bare", ""),
    ]
    nodes = [RayNode(str(number), host, 1, 0, address) for number, (host, address) in enumerate(hosts)]
    named = [node.host for node in distinguished(nodes)]
    assert named == ["gpu-10.0.0.1", "gpu-10.0.0.2", "other", "same", "same", "bare", "bare"]


def test_the_answer_of_a_node_is_read(tmp_path: Path) -> None:
    state = preparer.PrepareState("", 0, "noise\n" + json.dumps({"digest": "d"}), "")
    assert preparer.prepared_digest(state) == "d"
    assert preparer.prepared_digest(preparer.PrepareState("", 0, "noise", "")) == ""
