"""Questions to the harness, each asked of a process of its own: a contract's cache, and what this machine allows.

The scheduler imports nothing of the harness but contracts and files; what torch, the kernel or a cache answer comes
back as one line of JSON. Names what makes scores comparable.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.files import write_atomic
from scheduler.domain.errors import LabProblem, PoolProblem
from scheduler.domain.lab import SANDBOX_LEVELS
from scheduler.node.code import python_command
from scheduler.node.judge_process import Commands, judge_environment

PROBE_TIMEOUT_S = 120.0
FULL_TIMEOUT_S = 600.0  # reading every byte of a large cache from a slow disk


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """A contract and its cache on this node. Without a cache `digest` is "" and `problem` gives the reason."""

    contract_name: str = ""
    contract_digest: str = ""
    digest: str = ""
    problem: str = ""
    calibrated_again: int = 0  # how often what a work clock counts in was measured anew on this node

    def pool_name(self, device_name: str, driver: str, sandbox: str) -> str:
        """Scores of slots with the same name may be compared; "" without a cache."""
        if not self.digest:
            return ""
        machine = f"{device_name} driver {driver}" if driver else device_name
        python = ".".join(platform.python_version_tuple()[:2])
        torch = installed_version("torch") or "none"
        contract = f"{self.contract_name}-{self.contract_digest[:12]}"
        level = "" if sandbox == "full" else f" / sandbox {sandbox}"
        clock = f" / calibration {1 + self.calibrated_again}" if self.calibrated_again else ""
        return f"{machine} / python {python} torch {torch} / {contract} / cache {self.digest[:12]}{clock}{level}"


@dataclass(frozen=True, slots=True)
class SandboxFacts:
    """Why a machine does not allow a level of the sandbox, "" where it does; and its Landlock version, 0 for none."""

    full: str = ""
    weak: str = ""
    landlock_abi: int = 0

    def problem(self, level: str) -> str:
        """Why that level is not to be had here, and what is; "" when it is to be had."""
        reason = {"full": self.full, "weak": self.weak}.get(level, "")
        return f"no {level} sandbox here: {reason}" if reason else ""

    @property
    def best(self) -> str:
        """The strictest level to be had."""
        return next(level for level in SANDBOX_LEVELS if not self.problem(level))


def probe_cache(command: Sequence[str], contract_json: str, root: Path, environ: Mapping[str, str]) -> CacheFacts:
    """Find the cache of a contract. A missing cache is a `problem`. Raises PoolProblem when the disk at `root` refuses.

    The contract becomes a file there, named by its content: probes of several processes cannot disturb each other.
    """
    try:
        facts = CacheFacts(str(json.loads(contract_json)["name"]))
    except (ValueError, KeyError, TypeError):
        facts = CacheFacts("contract")
    path = root / ".contracts" / f"{hashlib.sha256(contract_json.encode()).hexdigest()[:16]}.json"
    try:
        if not path.exists():
            write_atomic(path, contract_json, durable=False)
        environment = judge_environment(environ, "")
        answer = _ask([*command, "--contract", str(path)], environment, root, PROBE_TIMEOUT_S)
    except OSError as problem:
        raise PoolProblem(f"the spool at {root} cannot be written: {problem}", "free some space there") from None
    except LabProblem as problem:
        return replace(facts, problem=f"the cache could not be checked: {problem.message}")
    if "error" in answer:
        hint = answer.get("hint") or ""
        return replace(facts, problem=f"{answer['error']}; {hint}" if hint else str(answer["error"]))
    named = {name: str(answer.get(name) or "") for name in ("contract_digest", "digest")}
    return replace(facts, **named, calibrated_again=int(answer.get("calibrated_again") or 0))


def ask_cache(contract_json: str, *, full: bool) -> dict[str, Any]:
    """The answer of `python -m harness.cache`: digest, directory, kernel …, or error and hint. Raises LabProblem."""
    return _ask_about(contract_json, [*Commands().cache, *["--full"] * full])


def ask_work_clock(contract_json: str) -> dict[str, Any]:
    """The answer of `python -m harness.calibration`: calibration, quiet, speed, shared. Raises LabProblem."""
    return _ask_about(contract_json, python_command("harness.calibration"))


def ask_capabilities(device: str) -> dict[str, Any]:
    """The answer of `python -m harness.capabilities`, which sees every GPU. Raises LabProblem."""
    environment = judge_environment(os.environ, "")
    del environment["CUDA_VISIBLE_DEVICES"]
    return _ask([*python_command("harness.capabilities"), device], environment, None, FULL_TIMEOUT_S)


def ask_sandbox(command: Sequence[str], environ: Mapping[str, str]) -> SandboxFacts:
    """The answer of `python -m harness.sandbox`, which tries each level on this machine. Raises LabProblem."""
    answer = _ask(command, judge_environment(environ, ""), None, PROBE_TIMEOUT_S)
    try:
        return SandboxFacts(str(answer["full"]), str(answer["weak"]), int(answer["landlock_abi"]))
    except (KeyError, TypeError, ValueError):
        raise LabProblem(f"the harness says nothing of the sandbox: {answer}") from None


def installed_version(package: str) -> str:
    """Version of an installed package, "" when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _ask_about(contract_json: str, command: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="arsched-") as folder:
        path = Path(folder) / "contract.json"
        path.write_text(contract_json, encoding="utf-8")
        about = [*command, "--contract", str(path)]
        return _ask(about, judge_environment(os.environ, ""), Path(folder), FULL_TIMEOUT_S)


def _ask(command: Sequence[str], environment: Mapping[str, str], cwd: Path | None, timeout_s: float) -> dict[str, Any]:
    """The last line that a program prints. Raises LabProblem when it prints no JSON."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, cwd=cwd,
            env=dict(environment),
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise LabProblem(f"the harness did not answer: {problem}") from None
    except (ValueError, IndexError):
        *_, error = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise LabProblem(f"the harness fails: {error}", "is arsched installed whole? pip install -e .") from None
    return answer
