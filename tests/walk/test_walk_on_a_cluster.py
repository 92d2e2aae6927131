"""The same submit on a cluster someone started: `ray start --head`, then `--address auto` from the user's shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.judging import Rig, build_cache
from tests.ray.conftest import TestCluster, cluster
from tests.walk.lab import GOOD, UsersLab

pytestmark = [pytest.mark.ray, pytest.mark.slow]
__all__ = ["cluster"]  # the session's one head, as a fixture of this module too


def test_submit_runs_on_a_started_cluster(cluster: TestCluster, tmp_path: Path) -> None:
    lab = UsersLab(Rig(tmp_path), cluster.head.environ)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ARSCHED_CACHE", str(cluster.cache))
        build_cache(lab.rig.contract)
    address = ("--address", "auto")
    said = lab.arsched("init", "--tag", "search", "--contract", str(lab.rig.contract_path), *address)
    assert said.code == 0, said.err
    said = lab.arsched("submit", lab.candidate("good", GOOD), *address, "--json")
    assert said.code == 0, said.err
    assert lab.statuses()["good"] == "baseline"
