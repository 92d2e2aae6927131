"""The judge's command line, parsed once into frozen arguments.

A usage error ends the process with exit code 2 before anything is written; whether cache, device and lock are there is
found out in the run, and is `infra`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from harness.containment import Wanted
from harness.contract import Contract, ContractError, describe_references, load_contract
from harness.protocol import ATTENTION_NAMES, EXCHANGE_NAMES
from harness.sandbox.confinement import LEVELS, Level

_LARGEST_SOURCE_BYTES = 16 << 20
_LONGEST_NONCE_BYTES = 256


@dataclass(frozen=True, slots=True)
class JudgeArgs:
    """One run. `cpus` is empty for no pinning; `device` is None for the CPU, else auto or a GPU's UUID or index.

    `exchange`: auto, or the one transport of logits to use. `nonce` is said back with the result's digest and in it.
    """

    contract: Contract
    train: Path
    seed: int
    out: Path
    device: str | None
    cpus: tuple[int, ...]
    expect_cache: str | None
    expect_attention: str | None
    lock: Path | None
    containment: Wanted
    seed_caches: Path | None = None
    keep_caches: Path | None = None
    exchange: str = "auto"
    digest_fd: int | None = None
    nonce: str | None = None
    sandbox: Level = "full"

    @property
    def visible_devices(self) -> str:
        """CUDA_VISIBLE_DEVICES for judge and candidate alike: nothing on a CPU contract, else one device."""
        if self.device is None:
            return ""
        return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if self.device == "auto" else self.device


def parse_arguments(argv: list[str]) -> JudgeArgs:
    """Parse the command line. Raises SystemExit(2) with a message on standard error."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        contract = load_contract(given.contract)
    except ContractError as error:
        parser.error(f"--contract {given.contract}: {error}\n{error.hint}".rstrip())
    if (fault := _unreadable(given.train)) is not None:
        parser.error(f"--train {given.train}: {fault}")
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"--out {given.out}: is not a directory")
    on_cpu = contract.device == "cpu"
    if on_cpu and given.device not in ("auto", "cpu"):
        parser.error(f"--device {given.device}: contract {contract.name} runs on the CPU")
    if given.device == "cpu" and not on_cpu:
        parser.error(f"--device cpu: contract {contract.name} needs a GPU (try --contract cpu)")
    if on_cpu and given.exchange not in ("auto", "host"):
        parser.error(f"--exchange {given.exchange}: contract {contract.name} runs on the CPU, where there is only host")
    read = {"contract": contract, "train": given.train.resolve(), "out": given.out.resolve()}
    return JudgeArgs(**vars(given) | read | {"device": None if on_cpu else given.device})


def _unreadable(train: Path) -> str | None:
    if not train.is_file():
        return "no such file"
    if not os.access(train, os.R_OK):
        return "may not be read"
    if (size := train.stat().st_size) > _LARGEST_SOURCE_BYTES:
        return f"{size} bytes are no source file (at most {_LARGEST_SOURCE_BYTES})"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.judge",
        description="Run one train.py on one device against a contract and write result.json.",
        epilog="exit codes: 0 scored, 3 ran without a valid score, 1 the machine or the judge failed, 2 wrong usage",
    )
    add = parser.add_argument
    add("--contract", required=True, metavar="C", help=describe_references())
    add("--train", required=True, type=Path, metavar="FILE", help="the candidate's train.py")
    add("--seed", required=True, type=_seed, metavar="S", help="seed of the run, a non-negative integer")
    add("--out", required=True, type=Path, metavar="DIR", help="where result.json, run.log and progress.json go")
    add("--device", default="auto", metavar="auto|cpu|GPU-uuid", help="default: what the contract says")
    add("--cpus", type=_cpus, default=(), metavar="LIST", help="pin the run to these cores, like 0 or 0,2 or 4-7")
    add("--expect-cache", metavar="DIGEST", help="refuse to run on any other prepared cache")
    add("--expect-attention", choices=ATTENTION_NAMES, help="refuse a run that uses another attention kernel")
    add("--lock", type=Path, metavar="FILE", help="hold this lock while anything of the run is alive")
    add("--containment", choices=("auto", "namespace", "subreaper"), default="auto", help="default: auto")
    add("--sandbox", choices=LEVELS, default="full", help="confine the candidate this far and no less; default: full")
    add("--seed-caches", type=Path, metavar="DIR", help="start with a copy of these compile caches, if they exist")
    add("--keep-caches", type=Path, metavar="DIR", help="leave the run's compile caches there, unless DIR exists")
    add("--exchange", choices=("auto", *EXCHANGE_NAMES), default="auto", help="pass logits this way and no other")
    add("--digest-fd", type=_pipe_end, metavar="N", help="write result.json's sha256 to this inherited pipe")
    add("--nonce-fd", dest="nonce", type=_nonce, metavar="N", help="say back what this pipe holds")
    return parser


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**63:
        raise argparse.ArgumentTypeError("a seed lies between 0 and 2**63 - 1")
    return seed


def _pipe_end(text: str) -> int:
    """A descriptor that only this process writes to: the candidate does not inherit it."""
    fd = int(text)
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    except (OSError, OverflowError):
        raise argparse.ArgumentTypeError(f"descriptor {fd} is not open") from None
    if not is_pipe:
        raise argparse.ArgumentTypeError(f"descriptor {fd} is not the write end of a pipe")
    os.set_inheritable(fd, False)
    return fd


def _nonce(text: str) -> str:
    """What an inherited pipe holds, read before there is a candidate; it is in no argument, variable or file."""
    try:
        with open(int(text), "rb", buffering=0) as pipe:
            os.set_blocking(pipe.fileno(), False)
            data = pipe.read(_LONGEST_NONCE_BYTES) if stat.S_ISFIFO(os.fstat(pipe.fileno()).st_mode) else None
    except (OSError, OverflowError):
        raise argparse.ArgumentTypeError(f"descriptor {text} cannot be read") from None
    if not data or not re.fullmatch(rb"[0-9a-f]{16,128}", data):
        raise argparse.ArgumentTypeError(f"descriptor {text} is no pipe that holds 16 to 128 hex digits")
    return data.decode()


def _cpus(text: str) -> tuple[int, ...]:
    cores: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores.update(range(int(first), int(last or first) + 1))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of cores like 0 or 0,2 or 4-7") from None
    if not cores:
        raise argparse.ArgumentTypeError(f"{text!r} names no core")
    return tuple(sorted(cores))
