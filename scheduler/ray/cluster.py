"""Everything asked of the ray module, which the pool passes in: starting or joining Ray, nodes, actors, calls.

Ray's exceptions become three: the node refused (PoolProblem), no answer yet (NoAnswer), the actor will never answer
(ActorGone). Joining a cluster changes nothing on it. Not covered: which slots there are, and their runs.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scheduler.domain.errors import ArschedError, PoolProblem
from scheduler.node.code import CODE_ROOT
from scheduler.node.preparer import NodePreparer
from scheduler.node.supervisor import NodeSettings, SlotActor, SlotAssignment
from scheduler.ray.failures import check_address, first_words, join_failure, start_failure
from scheduler.ray.head import refuse_unless_listening, refuse_without_loopback, takes_connections
from scheduler.ray.sentinel import start_sentinel

NAMESPACE = "arsched"
OBJECT_STORE_BYTES = 100 * 2**20  # a candidate is some 30 kB
SENTINEL_WAIT_S = 20.0
RETIRE_ANSWER_S = 5.0
# Longest path of a Unix socket, less the longest that Ray makes of one below its folder.
LONGEST_FOLDER = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
FOLDER_PREFIX = "arsched-ray-"  # mkdtemp adds eight letters
# Below any `uv run` (an agent's loop, a notebook) Ray would start its workers by that command line, in a copy of the
# current folder: with another Python, or none. Ours need this program's own. Ray reads it when it is imported.
# 3.11.2 and 3.11.9 are one Python to a run, as to a pool's name; Ray's own choice is to refuse such a node.
OWN_PYTHON = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor"}
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": NAMESPACE}


class NoAnswer(Exception):
    """Nothing came in time, or the actor is being restarted: ask again later."""


class ActorGone(Exception):
    """The actor is dead and will not be restarted; the text gives the reason, in Ray's words."""


@dataclass(frozen=True, slots=True)
class RayNode:
    """A living node, with what Ray may hand out of it."""

    id: str
    host: str
    cpus: int
    gpus: int
    address: str = ""


class RayCluster:
    """A connection to Ray. Not thread-safe.

    An embedded one has a sentinel process, which ends what is left of that Ray, also when this process cannot.
    """

    def __init__(self, ray: Any, sentinel: subprocess.Popen[bytes] | None = None, address: str = "") -> None:
        self._ray, self._sentinel, self.address = ray, sentinel, address

    @property
    def embedded(self) -> bool:
        return self._sentinel is not None

    def is_there(self) -> bool:
        """Whether the head still takes connections, where its address is known.

        Without a head Ray's calls hang, and after a minute Ray ends this process.
        """
        return takes_connections(self.address)

    def nodes(self) -> tuple[RayNode, ...]:
        """All living nodes, in a stable order. Hosts of one name are distinguished by their addresses."""
        found = []
        for node in self._ray.nodes():
            resources, address = node.get("Resources") or {}, str(node.get("NodeManagerAddress") or "")
            host = str(node.get("NodeManagerHostname") or address)
            if node["Alive"]:
                cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
                found.append(RayNode(str(node["NodeID"]), host, cpus, gpus, address))
        return tuple(sorted(distinguished(found), key=lambda node: (node.host, node.id)))

    def place(self, assignment: SlotAssignment, node_id: str, settings: NodeSettings) -> Any:
        """The actor of an assignment: an existing one, or a new one. Returns at once, before it is placed."""
        on_node = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        gpus, cpus = (1, 0) if assignment.device == "cuda" else (0, 1)
        actor_class = self._ray.remote(max_restarts=-1, max_task_retries=0)(SlotActor)
        name = f"slot-{node_id[:12]}-{assignment.device}{assignment.index}-{assignment.code}"
        return actor_class.options(
            name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached",
            num_gpus=gpus, num_cpus=cpus, scheduling_strategy=on_node,
        ).remote(assignment, settings)  # fmt: skip

    def place_preparer(self, node_id: str) -> Any:
        """An actor on that node that takes no slot and ends with this process."""
        on_node = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        return self._ray.remote(max_restarts=0)(NodePreparer).options(num_cpus=0, scheduling_strategy=on_node).remote()

    def own_node(self) -> str:
        """The node that this process runs on."""
        return str(self._ray.get_runtime_context().get_node_id())

    def ask(self, actor: Any, method: str, *arguments: object) -> Any:
        """Call a method of an actor; `answer` fetches what it returns."""
        return getattr(actor, method).remote(*arguments)

    def answered(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those of the calls that have an answer, after waiting at most `timeout_s` for all of them."""
        if not calls:
            return []
        ready, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s)
        return list(ready)

    def answer(self, call: Any, timeout_s: float) -> Any:
        """What a call returned. Raises PoolProblem, NoAnswer or ActorGone."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(call, timeout=timeout_s)
        except errors.RayTaskError as problem:
            cause = problem.cause
            if isinstance(cause, ArschedError):
                raise PoolProblem(cause.message, cause.hint) from None
            failure = f"{type(cause).__name__}: {first_line(cause)}"
            raise PoolProblem(f"a slot's supervisor failed: {failure}") from None
        except (errors.ActorUnavailableError, errors.GetTimeoutError) as problem:
            raise NoAnswer(first_line(problem)) from None
        except errors.RayError as problem:
            # Ray's long texts about dead actors, cut to the line that names the cause
            imports = re.findall(r".*(?:ModuleNotFoundError|ImportError).*", str(problem))
            raise ActorGone(imports[-1].strip() if imports else first_line(problem)) from None

    def kill(self, actor: Any) -> None:
        """End an actor permanently."""
        with suppress(Exception):  # it may be dead already, and Ray's complaints about that differ
            self._ray.kill(actor, no_restart=True)

    def retire_others(self, code: str) -> int:
        """End idle actors of other code; how many still have a run and are left."""
        left = 0
        for entry in self._ray.util.list_named_actors(all_namespaces=True):
            name = entry["name"]
            if entry["namespace"] == NAMESPACE and name.startswith("slot-") and not name.endswith(code):
                left += not self._retire(name)
        return left

    def free_resources(self) -> str:
        """What Ray has left to hand out, for a message."""
        left, all_of_it = self._ray.available_resources(), self._ray.cluster_resources()
        return ", ".join(f"{left.get(kind, 0):g} of {all_of_it.get(kind, 0):g} {kind} free" for kind in ("GPU", "CPU"))

    def offers(self, device: str) -> bool:
        """Whether Ray could still hand out a GPU ("cuda") or a core ("cpu")."""
        return bool(self._ray.available_resources().get("GPU" if device == "cuda" else "CPU", 0) >= 1)

    def leave(self) -> None:
        """Disconnect; an embedded Ray ends with everything it started."""
        try:
            self._ray.shutdown()
        finally:
            if self._sentinel is not None and self._sentinel.stdin is not None:
                self._sentinel.stdin.close()
                self._sentinel.wait(SENTINEL_WAIT_S)

    def _retire(self, name: str) -> bool:
        try:
            actor = self._ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:  # it ended meanwhile
            return True
        try:
            idle = self.answer(self.ask(actor, "retire"), RETIRE_ANSWER_S)
        except NoAnswer:
            return False
        except (ActorGone, PoolProblem):
            idle = True
        if idle:
            self.kill(actor)
        return bool(idle)


def distinguished(nodes: Sequence[RayNode]) -> Iterator[RayNode]:
    """The nodes, with the address in the name where two hosts share one and it tells which."""
    hosts, places = Counter(node.host for node in nodes), Counter((node.host, node.address) for node in nodes)
    for node in nodes:
        clear = hosts[node.host] == 1 or places[node.host, node.address] > 1 or not node.address
        yield node if clear else replace(node, host=f"{node.host}-{node.address}")


def start_embedded(ray: Any, cores: int, gpus: int) -> RayCluster:
    """Start a Ray of our own on this machine. Raises PoolProblem.

    It keeps its files, its address and its token to itself: nothing lands in the home folder, and no other driver on
    this machine takes it for a cluster.
    """
    refuse_without_loopback()
    folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=short_temporary_folder())
    cluster = RayCluster(ray, start_sentinel(Path(folder)))
    settings = {
        **OWN_PYTHON,
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # one of its own, or Ray would write one to ~/.ray
    }
    with _starting(cluster, settings):
        try:
            ray.init(
                address="local", num_cpus=cores, num_gpus=gpus, object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False, _temp_dir=folder, **QUIET,
            )  # fmt: skip
        except Exception as problem:  # Ray raises whatever went wrong inside
            raise start_failure(str(problem) or type(problem).__name__) from None
    return cluster


def short_temporary_folder() -> str:
    """The folder of temporary files, or another where its path is too long for Ray's sockets. Raises PoolProblem."""
    own = tempfile.gettempdir()
    for place in (own, "/tmp", "/var/tmp", f"/run/user/{os.getuid()}", "/dev/shm"):
        short = len(os.fsencode(os.path.abspath(place))) + 1 + len(FOLDER_PREFIX) + 8 <= LONGEST_FOLDER
        if short and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK):
            return place
    raise start_failure(f"AF_UNIX path length: {own}")


def join_cluster(ray: Any, address: str) -> RayCluster:
    """Become a driver of a running cluster; "auto" is RAY_ADDRESS, else the one on this machine.

    Raises UsageProblem for what cannot be an address, PoolProblem for a cluster that is not there.
    """
    check_address(address)
    where = (os.environ.get("RAY_ADDRESS") or "auto") if address == "auto" else address
    check_address(where)
    if where == "auto":
        with suppress(Exception):  # private to Ray, and only there to fail sooner
            where = str(ray._private.utils.read_ray_address() or "auto")
    refuse_unless_listening(where)
    cluster = RayCluster(ray, address=where)
    known = OWN_PYTHON if address == "auto" else {**OWN_PYTHON, "RAY_ADDRESS": address}
    with _starting(cluster, known):
        _use_token(ray)
        try:
            ray.init(address="auto", **QUIET)
        except Exception as problem:
            named = "" if where == "auto" else where
            raise join_failure(named, str(problem) or type(problem).__name__) from None
    return cluster


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the block, and undo what Ray itself sets meanwhile."""
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
    """The first line of an exception's text, or its type."""
    return first_words(str(problem)) if str(problem).strip() else type(problem).__name__


def _use_token(ray: Any) -> None:
    """Use the token in Ray's usual places, if there is one. Ray does so by itself only where no address is given."""
    with suppress(Exception):  # private to Ray; without it a cluster with a token needs RAY_AUTH_MODE=token set
        setup = ray._private.authentication.authentication_token_setup
        logging.getLogger(setup.__name__).setLevel(logging.ERROR)  # it would announce what we do for the user
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


@contextmanager
def _starting(cluster: RayCluster, settings: Mapping[str, str]) -> Iterator[None]:
    """An interrupted start leaves no process and no folder.

    Ray puts the folder it is started from on the module path of its processes. That is our own code's: a command run
    inside a candidate's worktree must not pass that candidate's copy of this program to the slots.
    """
    try:
        with environment(settings), chdir(CODE_ROOT):
            yield
    except BaseException:
        with suppress(Exception):
            cluster.leave()
        raise
