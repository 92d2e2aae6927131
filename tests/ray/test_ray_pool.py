"""RayPool on a cluster started by `ray start --head`: the contract of every pool, then deaths of all kinds."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.slot import RunOrder
from scheduler.ray.pool import RayPool
from tests.ray.conftest import TestCluster
from tests.scheduler.pool_contract import PoolContract
from tests.scheduler.supervisor_pool import fake_order

pytestmark = pytest.mark.ray


class RayLab:
    """A PoolLab of its own on the shared cluster."""

    def __init__(self, cluster: TestCluster, folder: Path) -> None:
        self.lab_id = f"lab-{uuid.uuid4().hex[:8]}"
        self.pool: RayPool = cluster.connect(self.lab_id)
        self.gate = folder / "gate"

    def order(self, run_id: str, train_py: str) -> RunOrder:
        return replace(fake_order(run_id, train_py), lab_id=self.lab_id)

    def scoring(self, run_id: str, val_bpb: float) -> RunOrder:
        return self.order(run_id, f"score {val_bpb}")

    def endless(self, run_id: str) -> RunOrder:
        return self.order(run_id, f"wait {self.gate}\nscore 1.5")

    def dying(self, run_id: str) -> RunOrder:
        return self.order(run_id, "die of old age")

    def release(self) -> None:
        self.gate.touch()

    def breathe(self) -> None:
        """Real processes breathe by themselves."""


@pytest.fixture
def lab(cluster: TestCluster, tmp_path: Path) -> Iterator[RayLab]:
    made = RayLab(cluster, tmp_path)
    yield made
    made.pool.close(stop_runs=True)


class TestRayPool(PoolContract):
    @pytest.fixture
    def lab(self, cluster: TestCluster, tmp_path: Path) -> Iterator[RayLab]:
        made = RayLab(cluster, tmp_path)
        yield made
        made.pool.close(stop_runs=True)
