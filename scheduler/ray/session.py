"""How Ray is started or joined: quiet, at ordinary niceness, in a folder of its own. Gets the ray module handed in.

An embedded Ray keeps its files, its address and its token to itself: nothing lands in the home folder and no other
driver on this machine takes it for a cluster. Joining a cluster changes nothing on it.

Ray puts the folder it is started from on the module path of its processes. That is our own code's, not the current
one: a command run inside a candidate's worktree must not hand that candidate's copy of this program to the slots.

Below any `uv run` (an agent's loop, a notebook) Ray would start its workers by that command line, in a copy of the
current folder: with another Python, or none. Ours need this program's own Python, so that is turned off.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.domain.errors import PoolProblem
from scheduler.node.judge_environment import CODE_ROOT
from scheduler.ray.sentinel import start_sentinel

NAMESPACE = "arsched"
OBJECT_STORE_BYTES = 100 * 2**20  # a candidate is some 30 kB
SENTINEL_WAIT_S = 20.0
LISTENS_S = 5.0
JOIN_HINT = (
    "check it with `ray status`; start one with `ray up cluster.yaml` or `ray start --head`, "
    "or leave --address away to use this machine alone"
)
OWN_PYTHON = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}  # Ray reads it when it is imported
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": NAMESPACE}


@dataclass(frozen=True, slots=True)
class Session:
    """A connection to Ray. An embedded one has a sentinel, which ends what is left of it, also when we cannot."""

    sentinel: subprocess.Popen[bytes] | None = None

    @property
    def embedded(self) -> bool:
        return self.sentinel is not None

    def leave(self, ray: Any) -> None:
        """Disconnect; an embedded Ray ends with everything it started."""
        try:
            ray.shutdown()
        finally:
            if self.sentinel is not None and self.sentinel.stdin is not None:
                self.sentinel.stdin.close()
                self.sentinel.wait(SENTINEL_WAIT_S)


def start_embedded(ray: Any, cores: int, gpus: int) -> Session:
    """Start a Ray of our own on this machine. Raises PoolProblem."""
    folder = tempfile.mkdtemp(prefix="arsched-ray-")
    session = Session(start_sentinel(Path(folder)))
    with _left_on_failure(ray, session), environment(embedded_environment()), chdir(CODE_ROOT):
        try:
            ray.init(
                address="local", num_cpus=cores, num_gpus=gpus, object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False, _temp_dir=folder, **QUIET,
            )  # fmt: skip
        except Exception as problem:  # Ray raises whatever went wrong inside
            hint = "look for other Ray processes on this machine, and for room in /tmp and /dev/shm"
            raise PoolProblem(f"Ray could not be started on this machine: {first_line(problem)}", hint) from None
    return session


def join_cluster(ray: Any, address: str) -> Session:
    """Become a driver of a running cluster. Raises PoolProblem."""
    if address.startswith("ray://"):
        raise PoolProblem(f"{address} is a Ray Client address", "run arsched on the head node, with --address auto")
    _refuse_if_deaf(_where(ray, address))
    session = Session()
    known = OWN_PYTHON if address == "auto" else {**OWN_PYTHON, "RAY_ADDRESS": address}
    with _left_on_failure(ray, session), environment(known), chdir(CODE_ROOT):
        _show_token(ray)
        try:
            ray.init(address="auto", **QUIET)
        except Exception as problem:
            where = os.environ.get("RAY_ADDRESS") or "this machine"
            raise PoolProblem(f"no Ray cluster could be joined at {where}: {first_line(problem)}", JOIN_HINT) from None
    return session


def _show_token(ray: Any) -> None:
    """Use the token in Ray's usual places, if there is one. Ray does so by itself only where no address is given."""
    with suppress(Exception):  # private to Ray; without it a cluster with a token needs RAY_AUTH_MODE=token set
        setup = ray._private.authentication.authentication_token_setup
        logging.getLogger(setup.__name__).setLevel(logging.ERROR)  # it would tell the user what we do for them
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _where(ray: Any, address: str) -> str:
    """The "host:port" a join would go to, as far as it can be known; "" leaves it to Ray."""
    address = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if address != "auto":
        return address
    with suppress(Exception):  # private to Ray, and only there to fail sooner
        return str(ray._private.utils.read_ray_address() or "")
    return ""


def _refuse_if_deaf(where: str) -> None:
    """Ray itself would try for minutes. Raises PoolProblem when nobody listens there."""
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), LISTENS_S).close()
    except OSError as problem:
        why = problem.strerror or first_line(problem)
        raise PoolProblem(f"no Ray cluster could be joined at {where}: {why}", JOIN_HINT) from None


def embedded_environment() -> dict[str, str]:
    """Settings Ray reads from the environment it starts in. A token of its own, or it would write one to ~/.ray."""
    return {
        **OWN_PYTHON,
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while, and undo what Ray itself sets meanwhile."""
    before = {name: os.environ.get(name) for name in (*values, "RAY_AUTH_MODE")}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def first_line(problem: BaseException) -> str:
    """What an exception says first, for one line on a screen."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__


@contextmanager
def _left_on_failure(ray: Any, session: Session) -> Iterator[None]:
    """An interrupted start leaves no process and no folder."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            session.leave(ray)
        raise
