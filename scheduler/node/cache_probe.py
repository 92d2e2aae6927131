"""Asks the referee on this node which prepared cache a contract has, and names what makes scores comparable.

Runs `python -m harness.cache` as its own process: the scheduler reads nothing of a cache itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from scheduler.domain.errors import PoolProblem
from scheduler.node.judge_environment import judge_environment

PROBE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """A contract and its cache on this node. Without a cache `digest` is "" and `problem` says why."""

    contract_name: str
    contract_digest: str
    digest: str
    problem: str = ""

    @classmethod
    def none(cls) -> CacheFacts:
        return cls("", "", "")

    def pool_name(self, device_name: str, driver: str) -> str:
        """Scores of slots with the same name may be compared; "" without a cache."""
        if not self.digest:
            return ""
        machine = f"{device_name} driver {driver}" if driver else device_name
        python = ".".join(platform.python_version_tuple()[:2])
        contract = f"{self.contract_name}-{self.contract_digest[:12]}"
        return f"{machine} / python {python} torch {_torch_version()} / {contract} / cache {self.digest[:12]}"


def probe_cache(command: tuple[str, ...], contract_json: str, root: Path, environ: Mapping[str, str]) -> CacheFacts:
    """Ask for the cache of a contract. A missing cache is a `problem`. Raises PoolProblem when the disk refuses."""
    facts = CacheFacts(_name(contract_json), "", "")
    path = _contract_file(root, contract_json)
    try:
        asked = subprocess.run(
            [*command, "--contract", str(path)], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL, cwd=root, env=judge_environment(environ, ""),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as problem:
        return replace(facts, problem=f"the cache could not be asked for: {problem}")
    return _read_answer(facts, asked)


def _read_answer(facts: CacheFacts, asked: subprocess.CompletedProcess[str]) -> CacheFacts:
    try:
        answer: dict[str, Any] = json.loads(asked.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        said = asked.stderr.strip()[-500:] or f"nothing (exit code {asked.returncode})"
        return replace(facts, problem=f"the cache could not be asked for; python said: {said}")
    if "error" in answer:
        hint = answer.get("hint") or ""
        return replace(facts, problem=f"{answer['error']}; {hint}" if hint else str(answer["error"]))
    return replace(facts, contract_digest=str(answer.get("contract_digest", "")), digest=str(answer.get("digest", "")))


def _contract_file(root: Path, contract_json: str) -> Path:
    """The contract as a file named by its content, so that many probes at once cannot disturb each other."""
    path = root / ".contracts" / f"{hashlib.sha256(contract_json.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return path
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(contract_json, encoding="utf-8")
        beside.replace(path)
    except OSError as problem:
        raise PoolProblem(f"the spool at {root} cannot be written: {problem}", "free some space there") from None
    return path


def _name(contract_json: str) -> str:
    try:
        return str(json.loads(contract_json)["name"])
    except (ValueError, KeyError, TypeError):
        return "contract"


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "none"
