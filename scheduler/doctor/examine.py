"""The whole examination in its order, one finding at a time. Changes nothing and starts no run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scheduler.contracts import choose_contract
from scheduler.doctor import gpu_node, gpu_record, gpus, lab, machine, slots
from scheduler.doctor.findings import Finding
from scheduler.node.gpu import read_driver, read_states
from scheduler.queue.pools import PoolOptions


@dataclass(frozen=True, slots=True)
class Wish:
    """`contract` None: the lab's, else cpu. `full`: read every byte of the cache."""

    tag: str | None = None
    contract: str | None = None
    full: bool = True
    options: PoolOptions = field(default_factory=PoolOptions)


def examine(wish: Wish, say: Callable[[str], None], start: Path) -> Iterator[Finding]:
    """Every finding as soon as it is made. Raises UsageProblem for a contract that does not exist."""
    given = choose_contract(wish.contract) if wish.contract else None
    yield machine.check_system()
    yield machine.check_packages()
    yield machine.check_git()
    yield from machine.check_disk(start)
    patient = lab.look_at_lab(wish.tag, given, start)
    yield patient.finding
    finding, cache = lab.check_cache(patient, full=wish.full)
    yield finding
    choice, address = patient.choice, wish.options.address
    device = choice.contract.device
    states = read_states() if device == "cuda" else ()
    yield from machine.check_referee(device if states or not address else "cpu")  # a cluster's head needs no GPU
    if states:
        yield from gpu_node.check_toolchain()
        if "digest" in cache:
            driver = read_driver()
            here = {"torch": machine.version_of("torch"), "driver": driver.version if driver else ""}
            yield from gpu_record.check_record(choice, cache.get("gpu"), here)
        yield from gpus.check_gpus(choice.contract, states)
    if address:
        yield from slots.check_cluster(patient, wish.options, say, start)
    else:
        yield from slots.check_this_machine(device)
        yield from slots.check_cluster_file(start)
