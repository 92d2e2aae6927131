"""Verdicts, and result.json: everything a run proved, in one file.

What it names of the machine is found without torch and without touching a GPU. When a verdict falls:
harness.judge.monitor; writing files: harness.judge.output.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
import re
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import harness
from harness.cache import Cache
from harness.containment import Containment
from harness.judge.arguments import JudgeArgs
from harness.judge.clock import PHASES
from harness.processes import Reaped
from harness.scoring import Score

RESULT_NAME = "result.json"
PROGRESS_NAME = "progress.json"
LOG_NAME = "run.log"
FORMAT = 1

_EXIT_OK, _EXIT_INFRA, _EXIT_OTHER = 0, 1, 3
_LOSS_MARKS = (0.25, 0.5, 0.75)  # of the budget
_NVIDIA = Path("/proc/driver/nvidia")
# The line that ends a traceback, and what it says where memory ran out; of C++, which has none, its last words.
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", re.MULTILINE)
_OUT_OF_MEMORY = re.compile(
    r"(?:\w+\.)*(?:OutOfMemoryError|MemoryError)\b"
    r"|(?:\w+\.)*(?:RuntimeError|AcceleratorError): .*(?:out of memory|can't allocate memory|Cannot allocate memory)"
)
_BAD_ALLOC = "terminate called after throwing an instance of 'std::bad_alloc'"


@dataclass(frozen=True, slots=True)
class JudgeVerdict:
    """status: one of the result file's statuses; reason: a sentence for a person, or empty."""

    status: str
    reason: str = ""

    @property
    def scored(self) -> bool:
        return self.status == "ok" or self.status.startswith("suspect: ")

    @property
    def exit_code(self) -> int:
        if self.scored:
            return _EXIT_OK
        return _EXIT_INFRA if self.status.startswith("infra: ") else _EXIT_OTHER


class InfraFailure(Exception):
    """The run could not be judged, through no fault of the candidate's."""

    def __init__(self, word: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = JudgeVerdict(f"infra: {word}", reason)


def verdict_of_exit(exit_code: int, log_tail: str, *, kernel_killed_for_memory: bool) -> JudgeVerdict:
    """The verdict about a candidate that ended before it was scored; exit_code is negative for a signal."""
    if exit_code == 0:
        return JudgeVerdict("no-eval", "train.py ended without calling evaluate_bpb")
    if exit_code == -signal.SIGKILL and kernel_killed_for_memory:
        return JudgeVerdict("oom", "the kernel killed train.py for its memory")
    ended = f"exit code {exit_code}"
    if exit_code < 0:
        known = -exit_code in set(signal.Signals)
        ended = f"killed by {signal.Signals(-exit_code).name if known else f'signal {-exit_code}'}"
    printed = _words(last_lines(log_tail))
    if _ran_out_of_memory(exit_code, log_tail):
        return JudgeVerdict("oom", f"train.py ran out of memory ({ended}){printed}")
    return JudgeVerdict("crash", f"train.py crashed ({ended}){printed}")


def _ran_out_of_memory(exit_code: int, log_tail: str) -> bool:
    """By the exception that ended it: other text that a candidate prints chooses no label."""
    if exit_code == -signal.SIGABRT:
        return _BAD_ALLOC in log_tail
    ends = _TRACEBACK.findall(log_tail)
    return exit_code == 1 and bool(ends) and _OUT_OF_MEMORY.match(ends[-1]) is not None


def _words(printed: str) -> str:
    """What a candidate printed, marked as its words: whoever reads them, an agent too, shall not take them for ours."""
    quoted = printed.translate(str.maketrans("`“”", "'''"))
    return f"; the candidate's words: “{quoted}”" if quoted else ""


def verdict_with_output(verdict: JudgeVerdict, fault: str) -> JudgeVerdict:
    """The verdict once the output folder is the judge's again; `fault` names what had become of it, or is empty.

    No honest train.py knows that folder, so its candidate answers for it. What was the lab's fault anyway remains so.
    """
    if not fault or verdict.exit_code == _EXIT_INFRA:
        return verdict
    return JudgeVerdict("invalid: output", fault)


def last_lines(text: str, lines: int = 3, characters: int = 400) -> str:
    """The last non-empty lines of a log on one line, without control characters: safe to print, short to read."""
    clean = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    kept = [line.strip() for line in re.split(r"[\r\n]+", clean) if line.strip()][-lines:]
    joined = " | ".join("".join(c if c.isprintable() else "?" for c in line) for line in kept)
    return joined if len(joined) <= characters else "…" + joined[1 - characters :]


@dataclass(slots=True)
class Telemetry:
    """What the candidate reports of its run: shown, never decided on; None until it has reported it."""

    step: int | None = None
    loss: float | None = None
    tokens: int | None = None
    attention: str | None = None
    peak_memory_mb: float | None = None
    mfu: float | None = None
    loss_at: list[tuple[float, float]] = field(default_factory=list)
    _passed: int = 0

    def mark_loss(self, used: float) -> None:
        """Keep the loss when a quarter, half and three quarters of the budget are `used` (a share of it)."""
        while self._passed < len(_LOSS_MARKS) and used >= _LOSS_MARKS[self._passed]:
            if self.loss is not None and math.isfinite(self.loss):
                self.loss_at.append((_LOSS_MARKS[self._passed], round(self.loss, 5)))
            self._passed += 1


class JudgeResult:
    """Facts of one run, as its steps find them out; what is not known is None, and null in the file."""

    def __init__(self, args: JudgeArgs, containment: Containment) -> None:
        self._args, self._containment = args, containment
        self._begun_at = time.monotonic()
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.train_py = args.train.read_bytes()
        self.cache: Cache | None = None
        self.seeded = False  # with kept compile caches
        self.score: Score | None = None
        self.holdout_bpb: float | None = None
        self.probes: dict[str, float | int | None] = {}
        self.evaluation_charged_s: float | None = None
        self.telemetry = Telemetry()
        self.exchange: str | None = None
        self.sandbox: str | None = None  # what the candidate was confined by, once it was
        self.phases_s: dict[str, float | None] = dict.fromkeys(PHASES)
        self.used_s: float | None = None  # both None when training never began
        self.train_wall_s: float | None = None
        self.cpu_s: float | None = None
        self.cpu_clock: str | None = None
        self.calibration: str | None = None  # of a work clock
        self.machine: dict[str, Any] | None = None  # as harness.judge.machine shows it
        self.ended: Reaped | None = None
        self.launched, self.all_dead = False, True  # all_dead: no process of the candidate lives
        self.log_truncated = False

    def to_json(self, verdict: JudgeVerdict) -> str:
        """The text of result.json; a score is shown only with a verdict that carries one.

        `probes` holds the numbers of harness.judge.probes, empty without an evaluation. `sandbox` begins with the level
        reached, null when no candidate was started. `exchange` is one of harness.protocol.EXCHANGE_NAMES, null when no
        buffer was opened. `cpu_clock` is perf, cgroup or polled. `loss_at` holds pairs of a share of the budget and the
        loss reported by then; `mfu` is a share of the peak.
        """
        args, report, budget = self._args, self.telemetry, self._args.contract.budget
        score = self.score if verdict.scored else None
        peak_memory_mb = report.peak_memory_mb
        if peak_memory_mb is None and self.ended is not None:
            peak_memory_mb = round(self.ended.peak_memory_mb, 1)
        result = {
            "format": FORMAT,
            "status": verdict.status,
            "reason": verdict.reason,
            "val_bpb": score and score.val_bpb,
            "val_bpb_upstream": score and score.val_bpb_upstream,
            "nats_per_token": score and score.nats_per_token,
            "holdout_bpb": score and self.holdout_bpb,
            "phases_s": self.phases_s,
            "wall_s": round(time.monotonic() - self._begun_at, 3),
            "budget": {
                "clock": budget.clock,
                "cpu_clock": self.cpu_clock,
                "limit_s": budget.seconds,
                "used_s": self.used_s,  # on that clock
                "cpu_s": self.cpu_s,  # CPU seconds of the training, whatever the clock
                "evaluation_charged_s": self.evaluation_charged_s,  # part of used_s
                "train_wall_s": self.train_wall_s,
            },
            "machine": self.machine,
            "training": {
                "steps": report.step,
                "tokens": report.tokens,
                "tokens_per_s": report.tokens / self.train_wall_s if report.tokens and self.train_wall_s else None,
                "last_loss": report.loss,
                "loss_at": report.loss_at,
                "mfu": report.mfu if report.mfu is not None and 0 <= report.mfu <= 1 else None,
            },
            "peak_memory_mb": peak_memory_mb,
            "launched": self.launched,
            "seed": args.seed,
            "nonce": args.nonce if self.all_dead else None,  # a living one could read and copy it
            "digests": {
                "contract": args.contract.digest,
                "cache": self.cache and self.cache.digest,
                "train_py": hashlib.sha256(self.train_py).hexdigest(),
            },
            "attention": report.attention,
            "exchange": self.exchange,
            "device": _cpu_device() if args.device is None else _gpu_device(args.visible_devices),
            "versions": {
                "python": platform.python_version(),
                "torch": _version_of("torch"),
                "numpy": _version_of("numpy"),
                "arsched": harness.__version__,
            },
            "compile_cache": "seeded" if self.seeded else "cold",
            "containment": self._containment,
            "sandbox": self.sandbox,
            "probes": self.probes,
            "log": {"file": LOG_NAME, "truncated": self.log_truncated},
            "exit_code": None if self.ended is None else self.ended.exit_code,
            "started_at": self._started_at,
        }
        return json.dumps(_finite(result), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON knows no NaN: what a candidate reports may be one."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_device() -> dict[str, str | None]:
    match = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    name = match.group(1) if match else platform.machine()
    return {"kind": "cpu", "name": name, "uuid": None, "driver": None}


def _gpu_device(visible: str) -> dict[str, str | None]:
    """The GPU that `visible` (a UUID or an index in PCI order) names, as far as the driver's /proc files tell."""
    gpus: list[tuple[str | None, str | None]] = []
    for folder in sorted(_NVIDIA.glob("gpus/*")):
        text = _read(folder / "information")
        model = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
        uuid = re.search(r"^GPU UUID:\s*(\S+)$", text, re.MULTILINE)
        gpus.append((model.group(1).strip() if model else None, uuid.group(1) if uuid else None))
    named = [gpu for gpu in gpus if gpu[1] is not None and gpu[1] == visible]
    if not named and visible.isdigit() and int(visible) < len(gpus):
        named = [gpus[int(visible)]]
    name, identity = named[0] if named else (None, visible if visible.startswith("GPU-") else None)
    version = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", _read(_NVIDIA / "version"))
    return {"kind": "cuda", "name": name, "uuid": identity, "driver": version.group(1) if version else None}


def kernel_memory_kills() -> int:
    """How many processes the kernel has killed for memory since boot; 0 where it does not count them."""
    match = re.search(r"^oom_kill (\d+)$", _read(Path("/proc/vmstat")), re.MULTILINE)
    return int(match.group(1)) if match else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
