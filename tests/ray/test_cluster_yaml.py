"""cluster.yaml against Ray's own offline check, and that the keys we call known are the ones Ray knows.

Needs the ray package, starts no Ray. The check is private to Ray (2.60): a new Ray may move it.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray._private.utils import check_version_info
from ray.autoscaler._private import commands
from ray.autoscaler._private.local.node_provider import LocalNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config, with_envs

from scheduler.ray.cluster_config import KNOWN_KEYS, read_cluster_config

ROOT = Path(__file__).resolve().parents[2]
Settings = dict[str, Any]


@pytest.fixture
def settings() -> Settings:
    loaded: Settings = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def check_by_ray(settings: Settings) -> Settings:
    prepared: Settings = prepare_config(settings)
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_shipped_file(settings: Settings) -> None:
    prepared = check_by_ray(settings)
    assert prepared["max_workers"] == 0
    assert prepared["head_start_ray_commands"] == settings["head_start_ray_commands"]


def test_more_nodes_are_more_addresses(settings: Settings) -> None:
    settings["provider"]["worker_ips"] = [f"192.0.2.{number}" for number in range(11, 18)]
    assert check_by_ray(settings)["max_workers"] == 7


def test_ray_refuses_a_misspelt_key(settings: Settings) -> None:
    settings["setup_command"] = settings.pop("setup_commands")
    with pytest.raises(Exception, match="setup_command"):
        check_by_ray(settings)


@pytest.mark.parametrize("key", ["auth", "file_mounts"])
def test_what_ray_accepts_wrongly_is_ours_to_find(settings: Settings, tmp_path: Path, key: str) -> None:
    if key == "auth":
        del settings["auth"]
    else:
        settings["file_mounts"] = {"/opt/data": "/no/such/path"}
    check_by_ray(settings)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert any(key in problem for problem in read_cluster_config(path).problems)


@pytest.mark.parametrize("keys", [["min_workers"], ["min_workers", "max_workers"]])
def test_ray_takes_a_limit_below_the_list_and_leaves_workers_out(
    settings: Settings, tmp_path: Path, keys: list[str]
) -> None:
    settings["provider"]["worker_ips"] = ["10.0.0.2", "10.0.0.3"]
    settings |= dict.fromkeys(keys, 1)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(settings))
    (kind,) = check_by_ray(settings)["available_node_types"].values()
    assert [kind[key] for key in keys] == [1] * len(keys)
    problems = read_cluster_config(path).problems
    assert all(any(f"{key} is 1, and 2 workers listed" in problem for problem in problems) for key in keys)


def test_ray_finds_machines_by_ipv4_only() -> None:
    source = inspect.getsource(LocalNodeProvider.internal_ip)
    assert "gethostbyname(" in source, "refuse IPv6 addresses no more?"
    with pytest.raises(OSError):
        socket.gethostbyname("fd00::2")


def test_ray_still_says_what_our_commands_contradict() -> None:
    """`ray up` exports version 2 of the autoscaler in front of each line of the head; ours comes later and wins."""
    source = inspect.getsource(commands.get_or_create_head_node)
    assert '"RAY_enable_autoscaler_v2": "1"' in source, "demand RAY_enable_autoscaler_v2=0 no more?"
    line = 'RAY_enable_autoscaler_v2=0 sh -c "echo \\$RAY_enable_autoscaler_v2"'
    (wrapped,) = with_envs([line], {"RAY_enable_autoscaler_v2": "1"})
    assert subprocess.run(["bash", "-c", wrapped], capture_output=True, text=True, check=True).stdout == "0\n"


def test_ray_ends_a_cluster_with_a_bare_ray_stop() -> None:
    assert 'cmd="ray stop"' in inspect.getsource(commands.teardown_cluster), "demand ray on the PATH no more?"


def test_the_known_keys_are_rays() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    assert set(KNOWN_KEYS) == set(schema["properties"])


@pytest.mark.parametrize(("level", "joins"), [("minor", True), (None, False)])
def test_the_level_in_our_commands_lets_another_patch_of_python_join(
    monkeypatch: pytest.MonkeyPatch, level: str | None, joins: bool
) -> None:
    monkeypatch.delenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", raising=False)
    if level:
        monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", level)
    here = sys.version_info
    there = {"ray_version": ray.__version__, "python_version": f"{here.major}.{here.minor}.{here.micro + 1}"}
    with contextlib.nullcontext() if joins else pytest.raises(RuntimeError, match="Version mismatch"):
        check_version_info(there, "node")
