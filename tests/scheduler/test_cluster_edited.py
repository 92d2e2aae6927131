"""cluster.yaml as people edit it: addresses, keys, limits, forms and commands that Ray takes and cannot work with."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.ray.cluster_config import read_cluster_config
from tests.scheduler.test_node_cluster_config import (
    GOOD_START,
    Settings,
    problems_of,
    rent,
    settings,  # noqa: F401
    start,
)


def set_in(*keys: str, to: Any) -> Callable[[Settings], None]:
    """Another value at a place of the file."""

    def change(given: Settings) -> None:
        for key in keys[:-1]:
            given = given.setdefault(key, {})
        given[keys[-1]] = to

    return change


def list_workers(*addresses: Any) -> Callable[[Settings], None]:
    return set_in("provider", "worker_ips", to=list(addresses))


def head_at(address: Any) -> Callable[[Settings], None]:
    return set_in("provider", "head_ip", to=address)


def in_worker_start(old: str, new: str) -> Callable[[Settings], None]:
    def change(given: Settings) -> None:
        commands = given["worker_start_ray_commands"]
        assert old in commands[-1]
        commands[-1] = commands[-1].replace(old, new)

    return change


def bring_no_token(given: Settings) -> None:
    del given["file_mounts"]["~/.ray/auth_token"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            start(GOOD_START.replace("=10.0.0.1", "=10.0.0.9")),
            "node-ip-address=10.0.0.9, and provider.head_ip is 10.0.0.1",
        ),
        (start(GOOD_START.partition(" --autoscaling")[0]), "add to `ray start`: --autoscaling-config=~/ray_bootstrap"),
        (start(GOOD_START + " --block"), "head_start_ray_commands starts Ray with --block"),
        (start(GOOD_START.replace("6379", "6380")), "write $RAY_HEAD_IP:6380"),
        (start(GOOD_START.replace("=token", "=disabled")), "is disabled on the head and token on workers"),
        (in_worker_start("$RAY_HEAD_IP:6379", "$RAY_HEAD_IP"), "write $RAY_HEAD_IP:6379"),
        (in_worker_start("$RAY_HEAD_IP", "10.0.0.2"), "worker_start_ray_commands has no `ray start` with --address"),
        (bring_no_token, "add ~/.ray/auth_token: ~/.ray/auth_token"),
        (list_workers("10.0.0.2", "10.0.0.2"), "10.0.0.2 is listed twice"),
        (list_workers("H2", "h2"), "h2 is listed twice"),
        (list_workers("10.0.0.2 10.0.0.3"), "'10.0.0.2 10.0.0.3' is no IPv4 address"),
        (list_workers("10.0.0.256"), "'10.0.0.256' is no IPv4 address"),
        (list_workers(10.5), "'10.5' is no IPv4 address"),
        (list_workers("ubuntu@10.0.0.2"), "without a user, port or blank"),
        (list_workers("10.0.0.2:22"), "without a user, port or blank"),
        (list_workers({"10.0.0.2": None}), "is no IPv4 address"),
        (list_workers("10.0.0.2", None), "provider.worker_ips has an empty entry"),
        (list_workers("127.0.0.1"), "127.0.0.1 means another machine on every node"),
        (list_workers("fd00::2"), "fd00::2 is an IPv6 address"),
        (head_at("fd00::1"), "provider.head_ip fd00::1 is an IPv6 address"),
        (head_at("127.0.1.1"), "127.0.1.1 means another machine"),
        (head_at("0.0.0.0"), "0.0.0.0 means another machine"),
        (set_in("max_workers", to=0), "max_workers is 0, and 1 worker listed"),
        (set_in("min_workers", to=0), "min_workers is 0, and 1 worker listed"),
        (set_in("setup_commands", to="make install"), "setup_commands must be a list"),
        (set_in("worker_start_ray_commands", to=5), "worker_start_ray_commands must be a list"),
        (set_in("head_setup_commands", to=[{"echo a": "b"}]), "does not read \"{'echo a': 'b'}\" as text"),
        (set_in("file_mounts", to=["harness"]), "file_mounts must be lines of the form"),
        (set_in("provider", to=["local"]), "provider must be lines of the form"),
        (set_in("auth", "ssh_private_key", to="/proc/1/mem/x"), "does not exist here"),
        (set_in("auth", "ssh_private_key", to="~/.ssh"), "cannot be read here: Is a directory"),
        (set_in("file_mounts", "~/x", to="y" * 300), "cannot be read: File name too long"),
    ],
)
def test_what_people_write_and_cannot_work_is_named(
    settings: Settings,  # noqa: F811
    tmp_path: Path,
    spoil: Callable[[Settings], None],
    words: str,
) -> None:
    spoiled = copy.deepcopy(settings)
    spoil(spoiled)
    assert any(words in problem for problem in problems_of(spoiled, tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        in_worker_start("$RAY_HEAD_IP", "${RAY_HEAD_IP}"),
        in_worker_start("--address=$RAY_HEAD_IP", "--address $RAY_HEAD_IP"),
        in_worker_start("$RAY_HEAD_IP", "10.0.0.1"),
        set_in("max_workers", to=1),
        set_in("min_workers", to=1),
        list_workers("10.0.0.2", "gpu-3.rack", "10.0.0.4"),
    ],
)
def test_what_people_write_and_works_is_fine(
    settings: Settings,  # noqa: F811
    tmp_path: Path,
    change: Callable[[Settings], None],
) -> None:
    change(settings)
    assert problems_of(settings, tmp_path) == ()


KEYS = {
    "open": "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
    "plain": "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n",
    "locked": "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIE\n-----END RSA PRIVATE KEY-----\n",
    "locked8": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIE\n-----END ENCRYPTED PRIVATE KEY-----\n",
    "public": "ssh-ed25519 AAAA me@here\n",
}


def openssh_key(cipher: bytes) -> str:
    body = b"openssh-key-v1\0" + len(cipher).to_bytes(4) + cipher + b"rest"
    return KEYS["open"].format(base64.b64encode(body).decode())


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (openssh_key(b"none"), 0o600, ""),
        (KEYS["plain"], 0o400, ""),
        (KEYS["plain"], 0o644, "chmod 600 ~/.ssh/id_ed25519"),
        (openssh_key(b"aes256-ctr"), 0o600, "has a passphrase"),
        (KEYS["locked"], 0o600, "has a passphrase"),
        (KEYS["locked8"], 0o600, "has a passphrase"),
        (KEYS["public"], 0o644, "is a public key"),
    ],
)
def test_a_key_that_ssh_or_the_head_could_not_use_is_named(
    settings: Settings,  # noqa: F811
    tmp_path: Path,
    content: str,
    mode: int,
    words: str,
) -> None:
    key = tmp_path / ".ssh" / "id_ed25519"
    key.write_text(content)
    key.chmod(mode)
    problems = problems_of(settings, tmp_path)
    assert len(problems) == bool(words) and words in "".join(problems)
    settings["provider"]["worker_ips"] = []
    assert any("passphrase" in problem for problem in problems_of(settings, tmp_path)) is False, (
        "the head alone needs none"
    )


def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path: Path) -> None:
    """YAML takes the last one: the workers listed above are dropped without a word."""
    path = tmp_path / "cluster.yaml"
    path.write_text("provider: &p\n  type: local\n  worker_ips: [h2]\n  worker_ips: []\nauth: {<<: *p, type: x}\n")
    doubled = [problem for problem in read_cluster_config(path).problems if "twice" in problem]
    assert doubled == ["'worker_ips' stands twice, in lines 3 and 4: only the last one counts"]


def test_a_file_that_refers_to_itself_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("provider: &p\n  type: local\n  worker_ips: &w [*w]\n")
    assert any("no IPv4 address" in problem for problem in read_cluster_config(path).problems)


def test_nodes_listed_twice_are_due_once(
    settings: Settings,  # noqa: F811
    tmp_path: Path,
) -> None:
    list_workers("10.0.0.2", "10.0.0.1", "10.0.0.2", None)(settings)
    problems_of(settings, tmp_path)
    assert read_cluster_config(tmp_path / "cluster.yaml").addresses == ("10.0.0.1", "10.0.0.2")


def test_the_line_that_starts_a_worker_is_found_among_others(
    settings: Settings,  # noqa: F811
    tmp_path: Path,
) -> None:
    line = settings["worker_start_ray_commands"][-1]
    settings["worker_start_ray_commands"] += ["sleep 5", "echo done"]
    assert problems_of(settings, tmp_path) == ()
    assert read_cluster_config(tmp_path / "cluster.yaml").worker_start_command == line


@pytest.mark.parametrize(
    ("least", "most", "words"),
    [(2, 2, ""), (3, 2, "max_workers is 2, and the kinds of nodes want 3"), ("two", 2, ""), (1, 2, "")],
)
def test_a_rented_cluster_is_due_with_its_head_and_the_least_of_each_kind(
    settings: Settings,  # noqa: F811
    tmp_path: Path,
    least: Any,
    most: int,
    words: str,
) -> None:
    rent(settings, "aws")
    settings |= {"max_workers": most, "available_node_types": {"head": {}, "worker": {"min_workers": least}}}
    problems = problems_of(settings, tmp_path)
    assert len(problems) == bool(words) and words in "".join(problems)
    least = least if isinstance(least, int) else 0
    assert read_cluster_config(tmp_path / "cluster.yaml").nodes == 1 + min(least, most)
    settings["available_node_types"]["worker"]["max_workers"] = 0
    assert any("less than min_workers" in problem for problem in problems_of(settings, tmp_path)) == (least > 0)
