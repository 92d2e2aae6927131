"""The slots: of this machine as it stands, or of a cluster as its nodes answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from scheduler.doctor.findings import Finding, from_error, good, note, problem
from scheduler.doctor.lab import Patient
from scheduler.domain.errors import ArschedError
from scheduler.domain.slot import Slot
from scheduler.node.gpu import GpuUnavailable, compute_processes
from scheduler.node.gpu_node import UNSEEN_PROCESSES
from scheduler.node.machine import Machine, read_machine
from scheduler.node.slot_layout import SlotSpec, lay_out
from scheduler.queue.pools import PoolOptions
from scheduler.ray.cluster_config import ClusterConfig, read_cluster_config

CLUSTER_FILE = "cluster.yaml"
BOOTSTRAP_FILE = "ray_bootstrap_config.yaml"  # what `ray up` leaves of cluster.yaml in the head's home
MONITOR_HINT = (
    "`ray up` is back minutes before the workers are set up; how far they are: "
    "tail -f /tmp/ray/session_latest/logs/monitor.out; else log in on a missing one and look what this says: "
)


def check_this_machine(device: str) -> Iterator[Finding]:
    """Slots an embedded Ray would have here. Starts none."""
    machine = read_machine(gpus=device == "cuda")
    specs = lay_out(machine, "here", device)
    if not specs:
        yield _no_slots(machine, device)
    for spec in specs:
        yield _check_spec(spec)


def check_cluster(
    patient: Patient, options: PoolOptions, say: Callable[[str], None], folder: Path
) -> Iterator[Finding]:
    """Join the cluster, place its supervisors and hear what each slot says of itself."""
    from scheduler.ray.pool import RayPool

    contract = patient.choice.contract.to_json()
    try:
        pool = RayPool.connect(options.address, options.slots, contract, "doctor", say=say)
    except ArschedError as error:
        yield from_error("cluster", error)
        return
    try:
        slots = pool.slots()
    finally:
        pool.close(stop_runs=False)
    yield _check_nodes(slots, folder)
    for slot in slots:
        yield _check_slot(slot, patient)
        yield from (note(slot.id, said) for said in slot.notes)
    yield from _check_alike(slots)
    if patient.choice.contract.device == "cuda":
        hint = f"log in there and run: arsched doctor --quick --contract {patient.choice.ref}"
        yield note("nodes", "driver, clocks, power and the GPU probe are examined on each node only", hint)


def check_cluster_file(folder: Path) -> Iterator[Finding]:
    """What would go wrong with `ray up cluster.yaml`; nothing where the file is still as shipped, or not there."""
    path = folder / CLUSTER_FILE
    if not path.is_file():
        return
    try:
        config = read_cluster_config(path)
    except ArschedError as error:
        yield note(CLUSTER_FILE, error.message, error.hint)
        return
    if not config.is_example:
        for said in config.problems:
            yield note(CLUSTER_FILE, said, "mend it before `ray up`")


def _check_nodes(slots: tuple[Slot, ...], folder: Path) -> Finding:
    nodes = {slot.node for slot in slots}
    said = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} with {len(slots)} slots"
    try:
        config = _config_of_the_cluster(folder)
    except ArschedError as error:
        return from_error("cluster", error)
    if config is None or len(nodes) >= len(config.addresses):
        return good("cluster", said)
    command = config.worker_start_command.replace("$RAY_HEAD_IP", config.head)
    missing = f"{said}; {config.path.name} names {len(config.addresses)} nodes"
    return problem("cluster", missing, MONITOR_HINT + command)


def _config_of_the_cluster(folder: Path) -> ClusterConfig | None:
    """The folder's cluster.yaml, unless it is as shipped; else what `ray up` left on the head; None without either.

    Raises UsageProblem.
    """
    for path in (folder / CLUSTER_FILE, Path.home() / BOOTSTRAP_FILE):
        if path.is_file() and not (config := read_cluster_config(path)).is_example:
            return config
    return None


def _check_slot(slot: Slot, patient: Patient) -> Finding:
    if slot.problem:
        return problem(slot.id, slot.problem, "mend it on that node, then look again")
    if patient.cache_digest not in ("", slot.cache_digest):
        what = f"its cache is {slot.cache_digest[:12]}, the lab's is {patient.cache_digest[:12]}"
        return problem(slot.id, what, "prepare the same data there: arsched prepare --from DIR takes shards along")
    return good(slot.id, slot.device_name)


def _check_alike(slots: tuple[Slot, ...]) -> Iterator[Finding]:
    pools = sorted({slot.pool for slot in slots if slot.pool and not slot.problem})
    if len(pools) > 1:
        said = f"{len(pools)} kinds of slots, whose scores do not compare: " + "; ".join(pools)
        yield note("pools", said, "a lab measures on one kind; start a lab for each, or use only one")


def _check_spec(spec: SlotSpec) -> Finding:
    if spec.problem:
        return problem(spec.slot_id, spec.problem)
    try:
        foreign = compute_processes(spec.uuid) if spec.uuid else ()
    except GpuUnavailable as error:
        return problem(spec.slot_id, str(error))
    if foreign:
        names = ", ".join(f"{process.pid} ({process.name})" for process in foreign)
        return problem(spec.slot_id, f"in use by process {names}", "a budget on a shared GPU is not a budget: end it")
    cores = ",".join(map(str, spec.cpus))
    if foreign is None:
        return note(spec.slot_id, f"{spec.device_name}: {UNSEEN_PROCESSES}", "make sure of it yourself")
    return good(spec.slot_id, f"{spec.device_name}, core{'s' if len(spec.cpus) > 1 else ''} {cores}")


def _no_slots(machine: Machine, device: str) -> Finding:
    if device == "cuda":
        hint = "use a cluster (--address auto on its head), or a lab that needs no GPU: arsched init --contract cpu"
        return problem("slots", f"the contract needs a GPU and there is none: {machine.gpu_problem}", hint)
    return problem("slots", "no core may be used", "look at the affinity and the limits of this shell")
