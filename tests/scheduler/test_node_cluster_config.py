"""cluster.yaml as shipped, and what its checker must find: above all what Ray accepts although it cannot work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.adapters.cluster_config import read_cluster_config
from scheduler.domain.errors import UsageProblem

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "cluster.yaml"
Settings = dict[str, Any]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The shipped file with a user's addresses and key in place, and its mounts below tmp_path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded: Settings = yaml.safe_load(SHIPPED.read_text())
    for path in (".ssh/id_ed25519", ".ray/auth_token"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    for here in loaded["file_mounts"].values():
        if not here.startswith("~"):
            (tmp_path / here).touch()
    loaded["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    return loaded


def problems_of(settings: Settings, folder: Path) -> tuple[str, ...]:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(settings))
    return read_cluster_config(path).problems


def test_the_shipped_file_needs_only_what_it_says_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = read_cluster_config(SHIPPED)
    assert len(config.problems) == 3
    for problem, word in zip(sorted(config.problems), ("192.0.2.10", "ssh_private_key", "get-auth-token"), strict=True):
        assert word in problem


def test_a_filled_in_file_is_fine(settings: Settings, tmp_path: Path) -> None:
    assert problems_of(settings, tmp_path) == ()
    config = read_cluster_config(tmp_path / "cluster.yaml")
    assert config.addresses == ("10.0.0.1", "10.0.0.2")
    assert "ray start --address=$RAY_HEAD_IP:6379" in config.worker_start_command


def drop_login(settings: Settings) -> None:
    del settings["auth"]


def break_mount(settings: Settings) -> None:
    settings["file_mounts"]["~/data"] = "no/such/folder"


def misspell(settings: Settings) -> None:
    settings["setup_command"] = settings.pop("setup_commands")


def give_one_worker_as_text(settings: Settings) -> None:
    settings["provider"]["worker_ips"] = "10.0.0.2"


def forget_the_head(settings: Settings) -> None:
    del settings["provider"]["head_ip"]


def name_a_node_twice(settings: Settings) -> None:
    settings["provider"]["worker_ips"] = ["10.0.0.2", "10.0.0.1"]


def start_nicely(settings: Settings) -> None:
    settings["worker_start_ray_commands"][-1] = "RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379"


def forget_the_token(settings: Settings) -> None:
    settings["head_start_ray_commands"][-1] = "RAY_worker_niceness=0 ray start --head"


def start_no_head(settings: Settings) -> None:
    settings["head_start_ray_commands"] = ["ray stop"]


def use_a_cloud(settings: Settings) -> None:
    settings["provider"]["type"] = "lambda"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_login, "auth.ssh_user is missing"),
        (break_mount, "no/such/folder"),
        (misspell, "did you mean 'setup_commands'"),
        (give_one_worker_as_text, "must be a list"),
        (forget_the_head, "head_ip is missing"),
        (name_a_node_twice, "10.0.0.1 is listed twice"),
        (start_nicely, "RAY_worker_niceness=0"),
        (forget_the_token, "RAY_AUTH_MODE"),
        (start_no_head, "no `ray start` with --head"),
        (use_a_cloud, "'lambda'"),
    ],
)
def test_what_cannot_work_is_named(
    settings: Settings, tmp_path: Path, spoil: Callable[[Settings], None], words: str
) -> None:
    spoiled = copy.deepcopy(settings)
    spoil(spoiled)
    assert any(words in problem for problem in problems_of(spoiled, tmp_path))


@pytest.mark.parametrize("text", ["", "just words", "a: [1", "- a list"])
def test_what_is_no_settings_file_is_a_usage_problem(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(UsageProblem, match=r"cluster\.yaml") as caught:
        read_cluster_config(path)
    assert caught.value.hint


def test_a_missing_file_is_a_usage_problem(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="cannot be read"):
        read_cluster_config(tmp_path / "none.yaml")


def test_what_a_node_needs_is_in_the_mounts() -> None:
    mounts: dict[str, str] = yaml.safe_load(SHIPPED.read_text())["file_mounts"]
    here = set(mounts.values())
    assert {"harness", "scheduler", "pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE"} <= here
    assert not here & {".", ".git", ".arsched", ".venv"}
