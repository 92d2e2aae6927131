"""Results of checks: this machine and its lab (system, packages, git, disk, repository, cache), its slots.

Not covered: GPUs (doctor.gpu), a cluster and its slots (doctor.cluster).
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.files import is_shared
from scheduler.domain.errors import ArschedError, LabProblem
from scheduler.domain.slot import DIRTY
from scheduler.git import Repo, git_version
from scheduler.lab import ContractChoice, choose_contract, contract_of, contract_ref, open_workspace
from scheduler.node.cores import spell_cpu_list
from scheduler.node.gpu import UNSEEN_PROCESSES, GpuUnavailable, compute_processes
from scheduler.node.harness_client import ask_cache, ask_sandbox, installed_version
from scheduler.node.judge_process import Commands, is_locked, lock_holders
from scheduler.node.machine import SlotSpec, lay_out, read_machine
from scheduler.node.spool import SpoolRoot, default_spool_root
from scheduler.node.supervisor import lock_name

LEAST_PYTHON = (3, 11)
LEAST_FREE_GB = 2.0


class Grade(StrEnum):
    OK = "ok"
    NOTE = "note"  # runs go on without it
    PROBLEM = "problem"  # no run can be believed or made until it is solved


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found. `subject` is a word like "git" or a slot's id; `hint`: what to do about it."""

    subject: str
    grade: Grade
    message: str
    hint: str = ""


def ok(subject: str, message: str) -> CheckResult:
    return CheckResult(subject, Grade.OK, message)


def note(subject: str, message: str, hint: str = "") -> CheckResult:
    return CheckResult(subject, Grade.NOTE, message, hint)


def problem(subject: str, message: str, hint: str = "") -> CheckResult:
    return CheckResult(subject, Grade.PROBLEM, message, hint)


def from_error(subject: str, error: ArschedError, grade: Grade = Grade.PROBLEM) -> CheckResult:
    return CheckResult(subject, grade, error.message, error.hint)


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What later checks are about. `cache_digest`, `lab_id` and `sandbox` are the lab's, "" and "full" without one."""

    result: CheckResult
    choice: ContractChoice
    cache_digest: str = ""
    lab_id: str = ""
    sandbox: str = "full"


def check_system() -> CheckResult:
    if sys.platform != "linux":
        hint = "run the lab on Linux; train.py alone runs anywhere"
        return problem("system", f"{platform.system()}: the judge needs Linux", hint)
    if sys.version_info < LEAST_PYTHON:
        return problem("system", f"Python {platform.python_version()} is too old", "install Python 3.11 or newer")
    return ok("system", f"Linux {platform.release()}, Python {platform.python_version()}")


def check_packages() -> CheckResult:
    """Every package arsched requires, and whether the installed version is one it was made for."""
    try:
        required = [line for line in metadata.requires("arsched") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        return problem("packages", "arsched itself is not installed", "make install, or pip install -e .")
    unmet = [message for line in required if (message := _unmet(line))]
    if unmet:
        return problem("packages", "; ".join(unmet), "make install, or pip install -c constraints.txt -e .")
    versions = f"torch {installed_version('torch')}, ray {installed_version('ray')}"
    return ok("packages", f"{len(required)} as required; {versions}")


def check_git() -> CheckResult:
    try:
        return ok("git", git_version())
    except ArschedError as error:
        return from_error("git", error)


def check_disk(folder: Path) -> Iterator[CheckResult]:
    """Room where the ledger and the spools are."""
    for subject, place in (("disk", folder), ("spool disk", default_spool_root())):
        there = next(parent for parent in (place, *place.parents) if parent.exists())
        free_gb = shutil.disk_usage(there).free / 2**30
        grade, hint = (Grade.OK, "") if free_gb >= LEAST_FREE_GB else (Grade.PROBLEM, "make room before a search")
        yield CheckResult(subject, grade, f"{free_gb:.1f} GB free at {there}", hint)
    if is_shared(default_spool_root()):
        what = f"{default_spool_root()} is on a file system that other nodes see: locks of their slots would be one"
        yield note("spool disk", what, "ARSCHED_SPOOL=FOLDER on a disk of this node alone")


def find_lab(tag: str | None, given: ContractChoice | None, start: Path) -> CheckContext:
    """Find the lab and its contract; `given` is the contract asked for, if one was."""
    fallback = given or choose_contract("cpu")
    try:
        Repo.open(start).head_commit()
    except ArschedError as error:
        return CheckContext(from_error("repository", error), fallback)
    try:
        with open_workspace(tag, start) as space:
            own = ContractChoice(contract_ref(space.lab, space.paths.contract), contract_of(space.lab))
            found = ok("lab", f"{space.tag} on {space.lab.branch}, contract {space.lab.contract_words}")
            digest = "" if given else space.lab.cache_digest
            return CheckContext(found, given or own, digest, space.lab.lab_id, space.lab.sandbox)
    except ArschedError as error:
        grade = Grade.NOTE if isinstance(error, LabProblem) else Grade.PROBLEM  # a lab is made by `arsched init`
        return CheckContext(from_error("lab", error, grade), fallback)


def check_sandbox() -> CheckResult:
    """What a candidate can be run in on this machine."""
    try:
        facts = ask_sandbox(Commands().sandbox, os.environ)
    except ArschedError as error:
        return from_error("sandbox", error)
    if facts.best == "full":
        return ok("sandbox", f"full; Landlock {facts.landlock_abi or 'none'}")
    why = "; ".join(filter(None, (facts.problem("full"), facts.problem("weak"))))
    hint = f"a lab that says so on every screen: arsched init --sandbox {facts.best}"
    return note("sandbox", f"{facts.best}: {why}", hint)


def check_cache(context: CheckContext, *, full: bool) -> tuple[CheckResult, dict[str, Any]]:
    """The contract's cache, against its manifest and against the lab; and all that the harness reports of it.

    `full`: every byte of it.
    """
    contract, hint = context.choice.contract, f"arsched prepare --contract {context.choice.typed}"
    try:
        found = ask_cache(contract.to_json(), full=full)
    except ArschedError as error:
        return from_error("cache", error), {}
    if "error" in found:
        return problem("cache", str(found["error"]), hint), found
    here = f"{contract.name} {found['digest'][:12]}"
    if context.cache_digest not in ("", found["digest"]):
        made = f"{contract.name} is {found['digest'][:12]}, the lab was made with {context.cache_digest[:12]}"
        versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
        return problem("cache", f"{made}; this one with {versions}", "start a lab with this one"), found
    if contract.device == "cuda" and not found.get("kernel") and not found.get("gpu"):
        return note("cache", f"{here}, without the attention kernel", hint), found
    return ok("cache", f"{here} at {found['directory']}"), found


def _unmet(line: str) -> str:
    """What is wrong with a required package, "" when nothing is."""
    from packaging.requirements import Requirement

    required = Requirement(line)
    if required.marker is not None and not required.marker.evaluate():
        return ""
    version = installed_version(required.name)
    if not version:
        return f"{required.name} is missing"
    fits = required.specifier.contains(version, prereleases=True)
    return "" if fits else f"{required.name} is {version}, arsched needs {required.specifier}"


def check_this_machine(device: str) -> Iterator[CheckResult]:
    """Slots an embedded Ray would have here. Starts none."""
    machine = read_machine(device == "cuda")
    specs = lay_out(machine, "here", device)
    if not specs and device == "cuda":
        hint = "use a cluster (--address auto on its head), or a lab that needs no GPU: arsched init --contract cpu"
        yield problem("slots", f"the contract needs a GPU and there is none: {machine.gpu_problem}", hint)
    elif not specs:
        yield problem("slots", "no core may be used", "look at the affinity and the limits of this shell")
    for spec in specs:
        yield _check_spec(spec)


def _check_spec(spec: SlotSpec) -> CheckResult:
    if spec.problem:
        return problem(spec.slot_id, spec.problem)
    lock = SpoolRoot(default_spool_root()).find_lock(lock_name(spec))
    if is_locked(lock):
        users = ", ".join(lock_holders(lock)) or "of another user"
        hint = "doctor says more of a slot when no run is on it; what is no run of a lab has to end first"
        return note(spec.slot_id, f"a run is going on there, or is left of one: process {users}", hint)
    try:
        foreign = compute_processes(spec.uuid) if spec.uuid else ()
    except GpuUnavailable as error:
        return problem(spec.slot_id, str(error))
    if foreign:
        users = ", ".join(map(str, foreign))
        hint = "a budget on a shared GPU is not a budget: end it"
        return problem(spec.slot_id, f"{DIRTY}in use by process {users}", hint)
    if foreign is None:
        return note(spec.slot_id, f"{spec.device_name}: {UNSEEN_PROCESSES}", "make sure of it yourself")
    cores = f"{'cores' if len(spec.cpus) > 1 else 'core'} {spell_cpu_list(spec.cpus)}"
    far = f", {spec.far_cpus} of them on another NUMA node" if spec.far_cpus else ""
    return ok(spec.slot_id, f"{spec.device_name}, {cores}{far}")
