"""Checks of a cluster: the nodes that cluster.yaml lists against those that came, and what each slot answers.

On the head, the copy that `ray up` left there says which nodes are due, and Ray's state file how far each one is.
Changes nothing. Not covered: what only a node itself can see (its driver, clocks, cache in full).
"""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from harness.files import home_folder
from scheduler.doctor.checks import CheckContext, CheckResult, Grade, from_error, note, ok, problem
from scheduler.domain.errors import ArschedError, NoSlots
from scheduler.domain.slot import Slot
from scheduler.domain.text import count
from scheduler.queue.runtime import PoolOptions
from scheduler.ray.cluster_config import HEAD_VARIABLE, ClusterConfig, read_cluster_config

CLUSTER_FILE = "cluster.yaml"
BOOTSTRAP_FILE = "ray_bootstrap_config.yaml"  # what `ray up` leaves of cluster.yaml in the head's home
MONITOR = "/tmp/ray/session_latest/logs/monitor.out"
WATCH = f"on the head: tail -f {MONITOR}"
RENTED = (
    "Ray's autoscaler rents them and tries again while there are none to be had: `ray status` on the head lists the "
    f"pending and failed ones, {MONITOR} there (or `ray monitor cluster.yaml`) says why; "
    "on Kubernetes: kubectl get pods, kubectl describe pod"
)
# What Ray's local provider notes of a node that is not there yet -> what that means, what to do. {} is its address.
_UNDER_WAY = {
    "uninitialized": (
        "its setup has not begun, or failed and will be tried again",
        f"`ray up` is back minutes before the workers are there; {WATCH}",
    ),
    "waiting-for-ssh": (
        "the head waits until it can log in there by SSH",
        "is it on? on the head, try: ssh -i ~/ray_bootstrap_key.pem {user}@{address}",
    ),
    "syncing-files": ("it is still being set up: files are being copied", WATCH),
    "setting-up": ("it is still being set up: packages and data are being installed", WATCH),
    "update-failed": (
        "its setup failed",
        f"the reason, on the head: grep -A 15 {{address}} {MONITOR}; then `ray up cluster.yaml` again",
    ),
}


def check_cluster(
    context: CheckContext, options: PoolOptions, log: Callable[[str], None], folder: Path
) -> Iterator[CheckResult]:
    """Join the cluster, place its supervisors and report which nodes are missing and what each slot answers."""
    from scheduler.ray.pool import RayPool

    contract = context.choice.contract
    where, lab_id = (options.address, options.slots), context.lab_id or "doctor"  # whose runs are not in the way
    try:
        pool = RayPool.connect(*where, contract.to_json(), lab_id, sandbox=context.sandbox, log=log)
    except ArschedError as error:
        yield from_error("cluster", error)
        if isinstance(error, NoSlots):  # it may be that the nodes which have some are not there yet
            nodes = _check_nodes((), error.addresses, folder)
            yield from (result for result in nodes if result.grade is not Grade.OK)
        return
    try:
        slots, addresses, bare = pool.slots(), pool.addresses(), pool.bare_nodes()
    finally:
        pool.close(stop_runs=False)
    yield from _check_nodes(slots, addresses, folder)
    kind = "GPU" if contract.device == "cuda" else "core"
    again = "where that is wrong: look at the node (nvidia-smi), then start Ray there again, which counts once"
    yield from (note(node, f"offers no {kind}: no run goes there", again) for node in bare)
    for slot in slots:
        yield _check_slot(slot, context)
        yield from (note(slot.id, message) for message in slot.notes)
    pools = sorted({slot.pool for slot in slots if slot.pool and not slot.problem})
    if len(pools) > 1:
        kinds = f"{len(pools)} kinds of slots, whose scores do not compare: " + "; ".join(pools)
        yield note("pools", kinds, "a lab measures on one kind; start a lab for each, or use only one")
    if contract.device == "cuda":
        hint = f"log in there and run: arsched doctor --quick --contract {context.choice.typed}"
        yield note("nodes", "driver, clocks, power and the GPU probe are checked on each node only", hint)


def check_cluster_file(folder: Path) -> Iterator[CheckResult]:
    """What would go wrong with `ray up cluster.yaml`; nothing where the file is still as shipped, or not there."""
    path = folder / CLUSTER_FILE
    if not path.is_file():
        return
    try:
        config = read_cluster_config(path)
    except ArschedError as error:
        yield from_error(CLUSTER_FILE, error, Grade.NOTE)
        return
    if not config.is_untouched:
        yield from (note(CLUSTER_FILE, message, "correct it before `ray up`") for message in config.problems)


def _check_nodes(slots: tuple[Slot, ...], addresses: frozenset[str], folder: Path) -> Iterator[CheckResult]:
    """Against the folder's cluster.yaml, unless it is as shipped; else what `ray up` left on the head; else nothing."""
    nodes = len(addresses) or len({slot.node for slot in slots})
    found = f"{count(nodes, 'node')} with {count(len(slots), 'slot')}"
    config, errors = read_due(folder)
    yield from (from_error(CLUSTER_FILE, error, Grade.NOTE) for error in errors if config)
    if errors and not config:
        yield from_error("cluster", errors[-1])
        return
    if config is None or nodes >= config.nodes:
        yield ok("cluster", found)
        yield from _check_strangers(config, addresses)
        return
    if not config.addresses:
        message = f"{found}; {config.path.name} asks for {config.nodes} at least (min_workers, or replicas)"
        yield problem("cluster", message, RENTED)
        return
    missing = [address for address in config.addresses if _resolved(address) not in addresses]
    message = f"{found}; {config.path.name} names {config.nodes} nodes"
    yield problem("cluster", message, f"{', '.join(missing)}: see below")
    states = read_states(config.name)
    yield from (_missing_node(address, states.get(address, ""), config) for address in missing)


def read_due(folder: Path) -> tuple[ClusterConfig | None, list[ArschedError]]:
    """The file that says which nodes there should be, and what kept one before it from being read."""
    errors: list[ArschedError] = []
    for path in (folder / CLUSTER_FILE, (home_folder() or folder) / BOOTSTRAP_FILE):
        try:
            if path.is_file() and not (config := read_cluster_config(path)).is_example:
                return config, errors
        except ArschedError as error:
            errors.append(error)
    return None, errors


def _check_strangers(config: ClusterConfig | None, addresses: frozenset[str]) -> Iterator[CheckResult]:
    """As many nodes as are listed, under other addresses: Ray takes the listed ones for dead."""
    listed = {_resolved(address): address for address in config.addresses} if config else {}
    if config and (absent := [address for real, address in listed.items() if real not in addresses]):
        message = f"{', '.join(absent)} in {config.path.name} came up as {', '.join(sorted(addresses - listed.keys()))}"
        yield note("cluster", message, "list the addresses that nodes have among themselves, or Ray restarts them")


def _missing_node(address: str, state: str, config: ClusterConfig) -> CheckResult:
    """Why a listed node is not there, as far as the head knows."""
    if state in _UNDER_WAY:
        message, hint = _UNDER_WAY[state]
        return problem(address, f"not in the cluster: {message}", hint.format(address=address, user=config.user))
    command = HEAD_VARIABLE.sub(config.head, config.worker_start_command)
    start = f"log in on {address} and run: {command}"
    if address == config.head:
        return problem(address, "the head is not in the cluster", "on your own machine: ray up cluster.yaml")
    if state == "up-to-date":
        return problem(address, "not in the cluster: it was set up, and its Ray has ended or misses the head", start)
    return problem(address, "not in the cluster", f"if it is not still being set up ({WATCH}), {start}")


def read_states(cluster: str, folder: Path | None = None) -> dict[str, str]:
    """Address -> status of a node as Ray's autoscaler on the head has it; empty where that is not to be had.

    Source: ray.autoscaler._private.local.node_provider.ClusterState, and STATUS_* of ray.autoscaler.tags.
    """
    path = (folder or Path(tempfile.gettempdir(), "ray")) / f"cluster-{cluster}.state"
    with suppress(OSError, ValueError, AttributeError):
        nodes = json.loads(path.read_text(encoding="utf-8"))
        return {address: str(node.get("tags", {}).get("ray-node-status", "")) for address, node in nodes.items()}
    return {}


def _resolved(address: str) -> str:
    """As Ray resolves what a file lists; what cannot be resolved stays as it is."""
    with suppress(OSError, UnicodeError):  # the latter: not even the form of a name
        return socket.gethostbyname(address)
    return address


def _check_slot(slot: Slot, context: CheckContext) -> CheckResult:
    again = f"arsched prepare --all-nodes --contract {context.choice.typed}"
    if slot.problem:
        unprepared = "arsched prepare" in slot.problem
        hint = f"on this node, for all of them: {again}" if unprepared else "solve it on that node, then run this again"
        return problem(slot.id, slot.problem, hint)
    if context.cache_digest not in ("", slot.cache_digest):
        message = f"its cache is {slot.cache_digest[:12]}, the lab's is {context.cache_digest[:12]}"
        return problem(slot.id, message, f"here, it says what to remove there: {again}")
    return ok(slot.id, slot.device_name)
