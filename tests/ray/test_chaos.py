"""The short form of benchmarks/chaos.py: some kills in a running search, and nothing is lost, doubled or left over.

With --hosts where this machine makes hosts (root); else that it says what is missing, and takes cluster.yaml's lines.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from benchmarks.chaos_hosts import hidden_problem, hosts_problem, ray_lines
from tests.processes import carrying
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "seed"), [(2, 3), pytest.param(10, 5, marks=pytest.mark.slow)])
def test_a_handful_of_kills_loses_nothing(kills: int, seed: int) -> None:
    _nothing_is_lost(kills, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cuts_and_kills_on_hosts_lose_nothing() -> None:
    if problem := hosts_problem():
        pytest.skip(problem)
    _nothing_is_lost(6, 2, "--hosts", "2", "--kinds", "link,worker,judge,actor")


def _nothing_is_lost(kills: int, seed: int, *more: str) -> None:
    command = [sys.executable, "benchmarks/chaos.py", "--kills", str(kills), "--seed", str(seed), *more]
    mark = f"CHAOS_TEST={uuid.uuid4().hex}"
    process = subprocess.Popen(
        ["env", mark, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_until(lambda: process.pid in carrying(mark) or process.poll() is not None, "the mark to be seen")
    try:
        said, _ = process.communicate(timeout=850)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it ends what it started
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and said.splitlines()[-1] == f"kills {kills}: lost 0, twice 0, orphans 0", said
    assert not carrying(mark)


@pytest.mark.parametrize(
    ("programs", "missing", "to_do"),
    [({"id": "echo 1000"}, "hosts need root", "run this as root"), ({"id": "echo 0"}, "hosts need ip ssh", "install")],
)
def test_hosts_that_cannot_be_are_refused_in_a_sentence(
    programs: dict[str, str], missing: str, to_do: str, tmp_path: Path
) -> None:
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    os.symlink(shutil.which("bash") or "/bin/bash", tmp_path / "bash")
    said = _refused("--hosts", "3", PATH=str(tmp_path))
    assert missing in said and to_do in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--hosts", "1"), "--hosts 1: give 2 to 9"),
        (("--kinds", "judge,link"), "kind link needs several hosts: add --hosts 3"),
        (("--kinds", "judge,moon"), "no kind moon"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(words: tuple[str, ...], why: str) -> None:
    assert why in _refused(*words)


def _refused(*words: str, **environ: str) -> str:
    """What is said on stderr with exit code 2."""
    command = [sys.executable, "benchmarks/chaos.py", *words]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and not done.stdout, done
    return done.stderr


def test_ray_on_hosts_is_started_by_the_shipped_lines() -> None:
    head, worker = ray_lines("head"), ray_lines("worker")
    assert "start --head --port=6379" in head and head.endswith("--node-ip-address=$RAY_HEAD_IP")
    assert "start --address=$RAY_HEAD_IP:6379" in worker
    for line in (head, worker):
        assert "ray stop && RAY_" in line and "~" not in line and "RAY_AUTH_MODE=token" in line


def test_a_checkout_that_hosts_do_not_see_is_named() -> None:
    said = hidden_problem((Path("/opt/arsched"), Path("/home/me/arsched/.venv")))
    assert said.startswith("/home/me/arsched/.venv is not there on the hosts, which have a /home of their own: ")
    assert hidden_problem((Path("/opt/arsched"), Path("/homes/me"), Path("/usr"))) == ""
