"""Each failure of Ray has the hint of its own cause; addresses that cannot be one; hosts that listen and say nothing.

Ray itself is not started: its texts are quoted, and hosts are sockets of the test.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scheduler.domain.errors import PoolProblem, UsageProblem
from scheduler.ray import cluster, head
from scheduler.ray.failures import check_address, join_failure, slots_failure, start_failure
from scheduler.ray.pool import RayPool
from tests.scheduler.fake_judge import CONTRACT_JSON

MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.40.0
    Python: 3.10.4
This process on node 10.0.0.7 was started with:
    Ray: 2.60.0
    Python: 3.11.2
"""
TEXTS = {  # Ray's or the system's own words -> words of the message, words of the hint
    "validate_socket_filename failed: AF_UNIX path length cannot exceed 107": ("sockets is too long", "TMPDIR"),
    MISMATCH: ("the cluster has Ray 2.40.0 on Python 3.10.4, this machine has Ray 2.60.0 on Python 3.11.2", "same Ray"),
    "The configured object store size (2 GB) exceeds /dev/shm size (0.06 GB).": ("exceeds /dev/shm size", "--shm-size"),
    "[Errno 28] No space left on device: '/tmp/arsched-ray-1'": ("No space left", "make room where temporary"),
    "[Errno 11] Resource temporarily unavailable": ("Resource temporarily", "ulimit -u"),
    "[Errno 24] Too many open files": ("Too many open files", "ulimit -n"),
    "[Errno 13] Permission denied: '/tmp/ray'": ("Permission denied", "TMPDIR"),
    "InvalidAuthToken: a token is required": ("InvalidAuthToken", "auth_token"),
    "Found multiple active Ray instances: {'a', 'b'}. Please": ("multiple active", "HOST:PORT"),
    "Could not find any running Ray instance. Please": ("no Ray cluster runs on this machine", "leave --address"),
    "Connection refused": ("Connection refused", "is the cluster still up"),
    "Timed out while waiting for GCS to become available.": ("GCS", "is the cluster still up"),
    "The current node timed out during startup. The GCS may be": ("timed out", "is the cluster still up"),
    "Name or service not known": ("cannot resolve that host name", "HOST:6379"),
    "some new trouble\nand its details": ("some new trouble", ""),
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:24])
def test_each_cause_has_its_own_message_and_hint(text: str) -> None:
    message, hint = TEXTS[text]
    here = {"is the cluster still up": "too busy", "HOST:6379": "/etc/hosts"}.get(hint, hint)
    for problem, said in ((start_failure(text), here), (join_failure("10.0.0.7:6379", text), hint)):
        assert message in problem.message and said in problem.hint
        assert "\n" not in problem.message and problem.hint


@pytest.mark.parametrize("text", [text for text in TEXTS if "active Ray" not in text and "running Ray" not in text])
def test_who_asked_for_no_cluster_is_not_sent_after_one(text: str) -> None:
    hint = start_failure(text).hint
    assert "ray up" not in hint and "--address" not in hint


def test_no_hint_is_given_to_two_causes_that_have_nothing_in_common() -> None:
    hints = [start_failure(text).hint for text in TEXTS if not TEXTS[text][1].startswith("is the cluster")]
    assert len(set(hints)) == len(hints)


@pytest.mark.parametrize(
    ("embedded", "any_free", "words"),
    [(True, True, "Ray's workers did not start"), (False, True, "has room"), (False, False, "gave none")],
)
def test_slots_that_do_not_come_are_blamed_on_others_only_on_a_full_cluster(
    embedded: bool, any_free: bool, words: str
) -> None:
    problem = slots_failure(2, "0 of 2 CPU free", embedded=embedded, any_free=any_free)
    assert words in problem.message and "0 of 2 CPU free" in problem.message
    assert ("other jobs" in problem.hint) == (not embedded and not any_free)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:8265", "dashboard"),
        ("https://head.example/ray", "dashboard"),
        ("head:8265", "dashboard"),
        ("ray://head:10001", "Ray Client"),
        ("head", "no address"),
        ("head:70000", "no address"),
        (":6379", "no address"),
    ],
)
def test_what_cannot_be_an_address_is_a_usage_problem_with_the_right_form(address: str, words: str) -> None:
    with pytest.raises(UsageProblem, match=words) as caught:
        check_address(address)
    assert "--address auto" in caught.value.hint


@pytest.mark.parametrize("address", ["auto", "head:6379", "[::1]:6379", "10.0.0.7:6379"])
def test_what_can_be_an_address_is_taken(address: str) -> None:
    check_address(address)


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """The "host:port" of something that takes connections and says `answer` to each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_ones = []

        def serve() -> None:
            while True:
                try:
                    there, _ = server.accept()
                except OSError:
                    return
                open_ones.append(there)
                there.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for there in open_ones:
            there.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"", "takes connections and never answers"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no Ray head")],
)
def test_a_host_that_listens_and_is_no_ray_head_is_refused_before_ray_is_asked(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, words: str
) -> None:
    monkeypatch.setattr(head, "LISTENS_S", 0.3)
    with listening(answer) as address, pytest.raises(PoolProblem, match=words):
        cluster.join_cluster(None, address)


def test_auto_is_ray_address_and_one_that_is_a_dashboard_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UsageProblem, match="dashboard"):
        cluster.join_cluster(None, "auto")


def test_ray_address_is_ignored_aloud_where_no_address_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("RAY_ADDRESS", "10.255.255.1:6379")
    monkeypatch.setattr(cluster, "start_embedded", lambda *_: (_ for _ in ()).throw(PoolProblem("started here")))
    with pytest.raises(PoolProblem, match="started here"):
        RayPool.connect(None, 1, CONTRACT_JSON, "lab-1", log=said.append)
    assert "RAY_ADDRESS=10.255.255.1:6379 is not used" in said[0] and "--address auto" in said[0]
    assert sum("RAY_ADDRESS" in line for line in said) == 1


@pytest.mark.parametrize("problem", [OSError(101, "Network is unreachable"), TimeoutError("timed out")])
def test_a_machine_without_loopback_is_said_before_ray_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, problem: OSError
) -> None:
    def refuse(*_: object) -> None:
        raise problem

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(PoolProblem, match=rf"127\.0\.0\.1: {problem.strerror or problem}$") as caught:
        cluster.start_embedded(None, 1, 0)
    assert "ip link set lo up" in caught.value.hint and not list(tmp_path.iterdir())


def test_a_long_tmpdir_is_replaced_by_a_short_one_and_a_short_one_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / "slurm_jobdir" / "1355700" / "tmp.node0016"
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert cluster.short_temporary_folder() == "/tmp"
    short = tempfile.mkdtemp(prefix="s", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", short)
    assert cluster.short_temporary_folder() == short
    os.rmdir(short)


def test_without_any_short_folder_the_reason_is_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 60)))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PoolProblem, match="sockets is too long"):
        cluster.short_temporary_folder()
