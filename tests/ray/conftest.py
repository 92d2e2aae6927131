"""The suite's one Ray: a head with two cores, started once, shared by every test that needs a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.node.supervisor import NodeSettings
from scheduler.ray.pool import RayPool
from tests.ray.ray_head import RayHead, start_head
from tests.scheduler.fake_judge import CONTRACT_JSON
from tests.scheduler.supervisor_pool import FAKES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs all of them: they share a Ray."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("ray"))


@dataclass(frozen=True)
class TestCluster:
    """A running head and the spool its supervisors use."""

    __test__ = False

    head: RayHead
    spool: Path
    cache: Path

    @property
    def settings(self) -> NodeSettings:
        return NodeSettings(self.spool, FAKES)

    def connect(self, lab_id: str, contract_json: str = CONTRACT_JSON, placement_s: float | None = None) -> RayPool:
        return RayPool.connect(
            self.head.address, None, contract_json, lab_id, settings=self.settings, placement_s=placement_s
        )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    cache = tmp_path_factory.mktemp("cache")
    head = start_head(cpus=2, cache=cache)
    try:
        yield TestCluster(head, tmp_path_factory.mktemp("spool"), cache)
    finally:
        head.node.end()


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools of this process notice changes at once."""
    for pause in ("NODES_EVERY_S", "PROBE_BROKEN_EVERY_S", "REVIVE_EVERY_S", "RETIRE_EVERY_S"):
        monkeypatch.setattr(f"scheduler.ray.pool.{pause}", 0.2)
