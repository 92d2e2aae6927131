"""This machine and what is installed on it: system, Python, packages, git, disk, what the referee is allowed."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from scheduler.doctor.findings import Finding, from_error, good, note, problem
from scheduler.doctor.gpu_node import judge_cuda
from scheduler.domain.errors import ArschedError
from scheduler.node.gpu import read_driver, read_states
from scheduler.node.gpu_node import device_file_lacks
from scheduler.node.referee import ask_machine
from scheduler.node.spool import default_spool_root

LEAST_PYTHON = (3, 11)
LEAST_FREE_GB = 2.0


def check_system() -> Finding:
    if sys.platform != "linux":
        hint = "run the lab on Linux; train.py alone runs anywhere"
        return problem("system", f"{platform.system()}: the judge needs Linux", hint)
    if sys.version_info < LEAST_PYTHON:
        return problem("system", f"Python {platform.python_version()} is too old", "install Python 3.11 or newer")
    return good("system", f"Linux {platform.release()}, Python {platform.python_version()}")


def check_packages() -> Finding:
    """Every package arsched requires, and whether the installed version is one it was made for."""
    try:
        required = [line for line in metadata.requires("arsched") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        return problem("packages", "arsched itself is not installed", "make install, or pip install -e .")
    wrong = [said for line in required if (said := _wrong(line))]
    if wrong:
        return problem("packages", "; ".join(wrong), "make install, or pip install -c constraints.txt -e .")
    return good("packages", f"{len(required)} as required; torch {version_of('torch')}, ray {version_of('ray')}")


def check_git() -> Finding:
    from scheduler.git import git_version

    try:
        return good("git", git_version())
    except ArschedError as error:
        return from_error("git", error)


def check_disk(folder: Path) -> Iterator[Finding]:
    """Room where the ledger and the spools are."""
    for about, place in (("disk", folder), ("spool disk", default_spool_root())):
        there = next(parent for parent in (place, *place.parents) if parent.exists())
        free_gb = shutil.disk_usage(there).free / 2**30
        said = f"{free_gb:.1f} GB free at {there}"
        yield good(about, said) if free_gb >= LEAST_FREE_GB else problem(about, said, "make room before a night")


def check_referee(device: str) -> Iterator[Finding]:
    """PID namespaces, and whether torch starts and reaches the GPU when the contract needs one."""
    try:
        said = ask_machine(device)
    except ArschedError as error:
        yield from_error("judge", error)
        return
    if said["contained"]:
        yield good("judge", "PID namespaces are allowed: whatever a candidate starts dies with its judge")
    else:
        hint = "allow unprivileged user namespaces (sysctl), or run as root in a container of its own"
        yield note("judge", "no PID namespaces here: processes a candidate hides can outlive a killed judge", hint)
    yield from _check_torch(device, said)


def _check_torch(device: str, said: dict[str, Any]) -> Iterator[Finding]:
    if not said["torch"]:
        yield problem("torch", f"torch does not start: {said['cuda_error']}", "install it: make install")
    elif device == "cuda":
        minors = (state.minor for state in read_states() if state.minor is not None)
        yield from judge_cuda(said, read_driver(), device_file_lacks(minors))
    else:
        yield good("torch", f"{said['torch']}, on the CPU")


def _wrong(line: str) -> str:
    from packaging.requirements import Requirement

    required = Requirement(line)
    if required.marker is not None and not required.marker.evaluate():
        return ""
    version = version_of(required.name)
    if not version:
        return f"{required.name} is missing"
    fits = required.specifier.contains(version, prereleases=True)
    return "" if fits else f"{required.name} is {version}, arsched needs {required.specifier}"


def version_of(name: str) -> str:
    """Of an installed package; "" when it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
