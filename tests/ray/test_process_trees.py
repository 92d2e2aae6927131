"""Which processes below a Ray actor die when the actor, its worker, its driver or its node is killed: a table.

Demanded is only what has to die; what Ray leaves alive is printed (-s), because a later Ray may do better. The rows
that arsched's judges rely on, a PID namespace whose first process dies with its parent, have no survivor in any column.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.containment import namespaces_allowed
from tests.processes import command_of, descendants, is_running
from tests.ray.conftest import TestCluster
from tests.ray.ray_head import RayHead, kill_quietly, start_head
from tests.ray.tree_driver import KINDS
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("setpriv") and namespaces_allowed()), reason="no PID namespaces here"),
]
DIE_S = 150.0  # a raylet without its head ends after a minute
SINGLE = {"direct", "session", "session, pdeathsig"}
ALWAYS = {"namespace", "arsched"}
ACTOR_ENDS = {*SINGLE, "grandchild", *ALWAYS}


class Trees:
    """A driver, its actor and the trees below that, all known by one folder."""

    def __init__(self, folder: Path, head: RayHead, *, detached: bool = False) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "tests.ray.tree_driver", str(folder), *["--detached"] * detached]
        self.driver = subprocess.Popen(
            command, env=head.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.driver.stdout is not None and self.driver.stdout.readline() == "planted\n"
        wait_until(lambda: self.alive() == set(KINDS), "all trees")
        wait_until(lambda: self._count("arsched") >= 4 and self._count("namespace") >= 5, "what has escaped")
        self.worker = int((folder / "direct").read_text())

    def say(self, word: str) -> None:
        assert self.driver.stdin is not None
        self.driver.stdin.write(f"{word}\n")
        self.driver.stdin.flush()

    def alive(self) -> set[str]:
        return {Path(place).name for _, place in self._processes()}

    def end(self) -> None:
        self.driver.kill()
        self.driver.communicate()
        for pid, _ in self._processes():
            kill_quietly(pid)

    def _count(self, kind: str) -> int:
        return sum(Path(place).name == kind for _, place in self._processes())

    def _processes(self) -> list[tuple[int, str]]:
        mark, found = f"TREE={self.folder}/".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            places = [os.fsdecode(one[5:]) for one in variables if one.startswith(mark)]
            if places and is_running(int(entry.name)):
                found.append((int(entry.name), places[0]))
        return found


Plant = Callable[..., Trees]


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    made: list[Trees] = []

    def start(head: RayHead, *, detached: bool = False) -> Trees:
        made.append(Trees(tmp_path, head, detached=detached))
        return made[0]

    yield start
    for trees in made:
        trees.end()


def check_dead(trees: Trees, demanded: set[str]) -> None:
    wait_until(lambda: not trees.alive() & demanded, f"{demanded} to be dead", DIE_S)
    sys.stdout.write(f"survived: {sorted(trees.alive()) or 'none'}\n")


def kill_one(head: RayHead, program: str) -> None:
    family = descendants(head.node.process.pid)
    (pid,) = (pid for pid in family if command_of(pid).partition(" ")[0].endswith(program))
    os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("word", ["kill", "terminate", "del", "exit"])
def test_an_actor_that_ends_takes_all_but_a_sessions_grandchildren_along(
    cluster: TestCluster, plant: Plant, word: str
) -> None:
    trees = plant(cluster.head)
    trees.say(word)
    check_dead(trees, ACTOR_ENDS)


@pytest.mark.timeout(400)
def test_a_killed_driver_takes_its_actors_trees_along(cluster: TestCluster, plant: Plant) -> None:
    trees = plant(cluster.head)
    trees.driver.kill()
    check_dead(trees, ACTOR_ENDS)


@pytest.mark.timeout(400)
def test_a_detached_actor_keeps_all_when_its_driver_is_killed_and_none_when_it_is(
    cluster: TestCluster, plant: Plant
) -> None:
    trees = plant(cluster.head, detached=True)
    trees.driver.kill()
    trees.driver.wait()
    wait_until(lambda: is_running(trees.worker))
    assert trees.alive() == set(KINDS)
    os.kill(trees.worker, signal.SIGKILL)
    check_dead(trees, {"direct", "grandchild", "session, pdeathsig", *ALWAYS})


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("program", "demanded"), [("/raylet/raylet", {*SINGLE, *ALWAYS}), ("/gcs_server", ALWAYS)], ids=["raylet", "gcs"]
)
def test_a_node_or_head_that_is_killed_leaves_nothing_that_is_contained(
    plant: Plant, tmp_path_factory: pytest.TempPathFactory, program: str, demanded: set[str]
) -> None:
    head = start_head(2, tmp_path_factory.mktemp("cache"))
    try:
        trees = plant(head, detached=True)
        kill_one(head, program)
        check_dead(trees, demanded)
    finally:
        head.node.end()
