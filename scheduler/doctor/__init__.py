"""`arsched doctor`: all checks in their order, one result at a time. Changes nothing and starts no run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from scheduler.doctor import checks, cluster, gpu, machine, repository
from scheduler.doctor.checks import CheckResult
from scheduler.lab import choose_contract
from scheduler.node.gpu import read_driver, read_states
from scheduler.node.harness_client import installed_version
from scheduler.queue.runtime import PoolOptions


def run_checks(
    tag: str | None, contract: str | None, full: bool, options: PoolOptions, log: Callable[[str], None], start: Path
) -> Iterator[CheckResult]:
    """Every result as soon as there is one. `contract` None: the lab's, else cpu. `full`: read every byte of the cache.

    Raises UsageProblem for a contract that does not exist.
    """
    given = choose_contract(contract) if contract else None
    ticks = machine.read_ticks()
    yield checks.check_system()
    yield checks.check_packages()
    yield checks.check_git()
    yield checks.check_sandbox()
    yield from checks.check_disk(start)
    context = checks.find_lab(tag, given, start)
    yield context.result
    yield from repository.check_repository(tag, start)
    result, cache = checks.check_cache(context, full=full)
    yield result
    choice, address = context.choice, options.address
    device = choice.contract.device
    states = read_states() if device == "cuda" else ()
    yield from gpu.check_capabilities(device if states or not address else "cpu")  # a cluster's head needs no GPU
    yield machine.check_machine(ticks)
    if not address:
        yield from machine.check_work_clock(choice)
    if states:
        yield from gpu.check_toolchain()
        if "digest" in cache:
            driver = read_driver()
            here = {"torch": installed_version("torch"), "driver": driver.version if driver else ""}
            yield from gpu.check_record(choice, cache.get("gpu"), here)
        yield from gpu.check_gpus(choice.contract, states)
    if address:
        yield from cluster.check_cluster(context, options, log, start)
    else:
        yield from machine.check_ray()
        yield from checks.check_this_machine(device)
        yield from cluster.check_cluster_file(start)
