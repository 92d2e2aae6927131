"""A Ray head of our own in a process of its own, as `ray start --head` makes it; and other drivers as programs.

Everything is on loopback, in a temporary folder, on free ports; only what was started here is ended.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.processes import descendants, is_running
from tests.waiting import wait_until

START_S = 90.0


@dataclass(frozen=True)
class RayNodeProcess:
    """One `ray start --block`, with everything below it."""

    process: subprocess.Popen[bytes]
    folder: Path

    def end(self) -> None:
        """Kill the node as a power cut would: `ray start --block` does not end by itself when it is asked."""
        family = [self.process.pid, *descendants(self.process.pid)]
        for pid in family:
            kill_quietly(pid)
        self.process.wait(30)
        wait_until(lambda: not any(is_running(pid) for pid in family))
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class RayHead:
    node: RayNodeProcess
    address: str
    environ: dict[str, str]  # what a driver needs to join


def start_head(cpus: int, cache: Path, port: int | None = None) -> RayHead:
    """A head with the settings of cluster.yaml, the suite's token, and prepared caches looked for below `cache`.

    It notices a dead node sooner: health checks are half a second apart.
    """
    port = port or free_port()
    settings = {
        "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0",
        "RAY_health_check_initial_delay_ms": "500", "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "4",
    }  # fmt: skip
    environ = {**os.environ, **settings, "ARSCHED_CACHE": str(cache)}
    environ.pop("RAY_ADDRESS", None)
    arguments = ["--head", f"--port={port}", "--include-dashboard=false"]
    folder = _temporary_folder()
    node = _start([*arguments, f"--temp-dir={folder}"], cpus, environ, folder)
    return RayHead(node, f"127.0.0.1:{port}", {**environ, "RAY_ADDRESS": f"127.0.0.1:{port}"})


def start_node(head: RayHead, cpus: int) -> RayNodeProcess:
    """Another node of the same cluster, on the same machine."""
    environ = {name: value for name, value in head.environ.items() if name != "RAY_ADDRESS"}
    folder = _temporary_folder()
    return _start([f"--address={head.address}"], cpus, environ, folder)


def _temporary_folder() -> Path:
    """Gone when the tests end, too: a driver that outlives its head makes the folder of its session anew."""
    folder = tempfile.mkdtemp(prefix="arsched-test-ray-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _start(arguments: list[str], cpus: int, environ: dict[str, str], folder: Path) -> RayNodeProcess:
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments, "--node-ip-address=127.0.0.1",
        f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={100 * 2**20}",
        "--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    with (folder / "start.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ, start_new_session=True)
    node = RayNodeProcess(process, folder)
    deadline = time.monotonic() + START_S
    while "Ray runtime started" not in (output := (folder / "start.log").read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            node.end()
            raise AssertionError(f"ray start did not come up:\n{output}")
        time.sleep(0.05)
    return node


def free_port() -> int:
    """A free port above those that Ray keeps for its workers."""
    for port in range(26000 + os.getpid() % 4000, 32000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def kill_quietly(pid: int) -> None:
    if is_running(pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
