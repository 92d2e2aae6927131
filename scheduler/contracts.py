"""Contracts as the scheduler meets them: chosen by name or file, and whether their cache is prepared here.

Of harness only the contract is imported, here and for the help texts; the cache is asked for through a process.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.contract import Contract, ContractError, load_contract
from scheduler.domain.errors import CacheProblem, LabProblem, UsageProblem
from scheduler.domain.lab import Lab
from scheduler.node.cache_probe import probe_cache
from scheduler.node.judge_process import Commands


@dataclass(frozen=True, slots=True)
class ContractChoice:
    """A contract and the word or path it was asked for by, which goes into hints."""

    ref: str
    contract: Contract


def choose_contract(ref: str) -> ContractChoice:
    """Raises UsageProblem naming the key, or the nearest contract."""
    try:
        return ContractChoice(ref, load_contract(ref))
    except ContractError as problem:
        raise UsageProblem(str(problem), problem.hint) from None


def contract_of(lab: Lab) -> Contract:
    """The contract a lab was made with. Raises LabProblem when this version cannot read it."""
    try:
        return Contract.from_json(lab.contract_json)
    except ContractError as problem:
        raise LabProblem(f"the contract of lab {lab.tag!r} cannot be read: {problem}", problem.hint) from None


def contract_ref(lab: Lab, contract_file: Path) -> str:
    """What to call a lab's contract by: its name where that still means the same, else the file that holds it."""
    try:
        if load_contract(lab.contract_name).digest == lab.contract_digest:
            return lab.contract_name
    except ContractError:
        pass
    return str(contract_file)


def prepared_digest(choice: ContractChoice, commands: Commands | None = None) -> str:
    """Digest of the contract's cache on this node. Raises CacheProblem when it is missing or damaged."""
    with tempfile.TemporaryDirectory(prefix="arsched-") as folder:
        commands = commands or Commands()
        facts = probe_cache(commands.cache, choice.contract.to_json(), Path(folder), os.environ)
    if facts.problem:
        what = facts.problem.partition("; run:")[0]
        raise CacheProblem(what, f"prepare it first: arsched prepare --contract {choice.ref}")
    return facts.digest
