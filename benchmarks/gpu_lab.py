"""What the GPU questions share: a contract and a train.py made on the spot, and the commands run on them.

Covers: a contract in the standard shape over the Python sources below sys.prefix (no network), train.py with its
constants, preparing, judging, and probing in child processes. Not covered: what is asked (gpu_questions) and how it is
written down (gpu_first_hour).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.contract import Contract, load_contract
from scheduler.policy.constants import rewrite_constants

ROOT = Path(__file__).resolve().parents[1]
_PROBE = Path(__file__).with_name("gpu_probe.py")
_TOKENS_PER_S = 2_600_000  # more than one GPU of today eats, so that the rows cannot run out


class Unanswered(Exception):
    """A question cannot be answered here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for; `upstream` is a copy of upstream's train.py, if there is one."""

    workdir: Path
    smoke: bool
    seconds: float
    seeds: int
    upstream: Path | None


@dataclass(frozen=True, slots=True)
class Lab:
    """A prepared contract and its train.py, ready to judge."""

    options: Options
    contract: Contract
    contract_path: Path
    train_path: Path

    def judge(
        self, out: str, *, seed: int = 1, contract: Path | None = None, train: Path | None = None
    ) -> dict[str, Any]:
        """Run one judge to its end; returns its result.json. Raises Unanswered when there is none."""
        folder = self.options.workdir / "runs" / out
        process = self.start_judge(folder, seed, contract or self.contract_path, train or self.train_path)
        process.wait()
        return self.result(folder)

    def start_judge(
        self, folder: Path, seed: int, contract: Path, train: Path, device: str = "auto"
    ) -> subprocess.Popen[bytes]:
        """Start a judge, whose progress goes to the terminal."""
        order = ["--contract", str(contract), "--train", str(train), "--seed", str(seed), "--out", str(folder)]
        return subprocess.Popen(
            [sys.executable, "-m", "harness.judge", *order, "--device", device], cwd=ROOT, env=environment()
        )

    def standard_run(self) -> dict[str, Any]:
        """The result of seed 1, judged once however many questions look at it."""
        folder = self.options.workdir / "runs" / "standard"
        return self.result(folder) if folder.exists() else self.judge("standard")

    def result(self, folder: Path) -> dict[str, Any]:
        path = folder / "result.json"
        if not path.is_file():
            raise Unanswered(f"the judge left no {path}")
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result

    def log_of(self, out: str) -> str:
        with contextlib.suppress(OSError):
            return (self.options.workdir / "runs" / out / "run.log").read_text(encoding="utf-8", errors="replace")
        return ""

    def probe(self, what: str, *arguments: str, **extra_environment: str) -> dict[str, Any]:
        """Run one function of gpu_probe in a fresh process; returns the JSON of its last line. Raises Unanswered."""
        env = environment() | {"ARSCHED_CONTRACT": str(self.contract_path), **extra_environment}
        command = [sys.executable, str(_PROBE), what, str(self.train_path), *arguments]
        ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=900)
        lines = ended.stdout.strip().splitlines()
        if ended.returncode or not lines:
            raise Unanswered(last_line(ended.stderr) or last_line(ended.stdout) or f"exit code {ended.returncode}")
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer


def environment() -> dict[str, str]:
    """This process's environment, with the repository on the path: nothing needs to be installed."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def open_lab(options: Options) -> Lab:
    """Write the contract and train.py and prepare the cache. Raises Unanswered when preparing fails."""
    options.workdir.mkdir(parents=True, exist_ok=True)
    contract = smoke_contract() if options.smoke else standard_on_the_spot(options.seconds)
    contract_path, train_path = write_contract(options.workdir, contract), options.workdir / "train.py"
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    train_path.write_text(rewrite_constants(source, dict(contract.train_constants)), encoding="utf-8")
    command = [sys.executable, "-m", "harness.prepare", "--contract", str(contract_path)]
    began = time.monotonic()
    ended = subprocess.run(command, cwd=ROOT, env=environment(), check=False)
    if ended.returncode:
        raise Unanswered(f"preparing failed with exit code {ended.returncode}; its message is above")
    print(f"prepared in {time.monotonic() - began:.0f} s", flush=True)
    return Lab(options, contract, contract_path, train_path)


def write_contract(folder: Path, contract: Contract) -> Path:
    path = folder / f"{contract.name}.json"
    path.write_text(contract.to_json(), encoding="utf-8")
    return path


def standard_on_the_spot(seconds: float) -> Contract:
    """The standard shape on Python sources: nothing to download. Scores say nothing about the standard contract's."""
    standard = load_contract("standard")
    return dataclasses.replace(
        standard,
        name="standard-prefix",
        corpus=dataclasses.replace(standard.corpus, kind="python", root="prefix", val_shard=None, holdout_shard=None),
        tokenizer_chars=100_000_000,
        train_tokens=int(_TOKENS_PER_S * max(seconds, 10)),
        evaluation_tokens=4 * 524_288,
        holdout_tokens=524_288,
        budget=dataclasses.replace(standard.budget, seconds=seconds, wall_limit_s=seconds + 10),
    )


def smoke_contract() -> Contract:
    """The cpu contract, shrunk to seconds: exercises the plumbing, measures nothing."""
    cpu = load_contract("cpu")
    return dataclasses.replace(
        cpu,
        name="cpu-smoke",
        tokenizer_chars=2_000_000,
        train_tokens=400_000,
        evaluation_tokens=8_192,
        holdout_tokens=8_192,
        budget=dataclasses.replace(cpu.budget, seconds=2),
    )
