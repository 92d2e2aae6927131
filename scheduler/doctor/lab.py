"""The repository, its lab, and the cache of its contract."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.contracts import ContractChoice, choose_contract, contract_of
from scheduler.doctor.findings import Finding, from_error, good, note, problem
from scheduler.domain.errors import ArschedError, LabProblem
from scheduler.git import Repo
from scheduler.node.referee import ask_cache
from scheduler.workspace import open_workspace


@dataclass(frozen=True, slots=True)
class Patient:
    """What the rest of the examination is about. `cache_digest` is what the lab was made with, "" without a lab."""

    finding: Finding
    choice: ContractChoice
    cache_digest: str = ""


def look_at_lab(tag: str | None, given: ContractChoice | None, start: Path) -> Patient:
    """Find the lab and its contract; `given` is the contract asked for, if one was."""
    fallback = given or choose_contract("cpu")
    try:
        Repo.open(start).head_commit()
    except ArschedError as error:
        return Patient(from_error("repository", error), fallback)
    try:
        with open_workspace(tag, start) as space:
            own = ContractChoice(space.lab.contract_name, contract_of(space.lab))
            said = f"{space.tag} on {space.lab.branch}, contract {space.lab.contract_name}"
            return Patient(good("lab", said), given or own, "" if given else space.lab.cache_digest)
    except LabProblem as missing:
        return Patient(note("lab", missing.message, missing.hint), fallback)
    except ArschedError as error:
        return Patient(from_error("lab", error), fallback)


def check_cache(patient: Patient, *, full: bool) -> tuple[Finding, dict[str, Any]]:
    """Every byte of the contract's cache, against its manifest and against the lab; and all the referee said of it."""
    try:
        said = ask_cache(patient.choice.contract.to_json(), full=full)
    except ArschedError as error:
        return from_error("cache", error), {}
    return _judge_cache(patient, said), said


def _judge_cache(patient: Patient, said: dict[str, Any]) -> Finding:
    contract = patient.choice.contract
    hint = f"arsched prepare --contract {patient.choice.ref}"
    if "error" in said:
        return problem("cache", str(said["error"]), hint)
    if patient.cache_digest not in ("", said["digest"]):
        made, here = patient.cache_digest[:12], said["digest"][:12]
        return problem("cache", f"{contract.name} is {here}, the lab was made with {made}", "start a lab with this one")
    if contract.device == "cuda" and not said.get("kernel") and not said.get("gpu"):
        return note("cache", f"{contract.name} {said['digest'][:12]}, without the attention kernel", hint)
    return good("cache", f"{contract.name} {said['digest'][:12]} at {said['directory']}")
