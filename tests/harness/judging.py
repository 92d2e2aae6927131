"""A tiny contract with a cache of random rows, and the judge as a subprocess: what every test of the judge stands on.

Real processes, real clocks, no torch unless a candidate imports it. Does not test anything itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.cache import FORMAT, MANIFEST_NAME, Cache, cache_directory, sha256_of
from harness.calibration import calibration_here, write_calibration
from harness.contract import Budget, Contract, Corpus, Limits, load_contract
from harness.tokenizer import Tokenizer
from tests.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
HOSTILE = REPOSITORY / "tests" / "fixtures" / "hostile"
REFERENCE_S = 1e-3  # of work clocks: about what a reading takes on a slow or busy machine
CANDIDATES = REPOSITORY / "tests" / "fixtures" / "candidates"

TINY = Contract(
    name="tiny",
    summary="random tokens",
    device="cpu",
    corpus=Corpus("folder", "nowhere", document_chars=0, train_shards=1, val_shard=None, holdout_shard=None),
    sequence_length=32,
    vocab_size=300,
    tokenizer_chars=1,
    pack_buffer_documents=10,
    pack_refill_documents=2,
    train_tokens=300 * 32,
    evaluation_tokens=40 * 32,
    holdout_tokens=8 * 32,
    budget=Budget(seconds=0.3, clock="cpu", grace_s=0.3, wall_limit_s=60.0, margin_s=0.1),
    limits=Limits(startup_s=60.0, evaluation_s=60.0, teardown_s=30.0, log_mb=0.25),
    threads=1,
    noise_prior_bpb=0.005,
)


def with_budget(contract: Contract, **changes: Any) -> Contract:
    return dataclasses.replace(contract, budget=dataclasses.replace(contract.budget, **changes))


def with_limits(contract: Contract, **changes: Any) -> Contract:
    return dataclasses.replace(contract, limits=dataclasses.replace(contract.limits, **changes))


RowsOf = Callable[[np.random.Generator, int, int, Contract], NDArray[np.int64]]  # rows, width -> [rows, width]


def random_rows(random: np.random.Generator, rows: int, width: int, contract: Contract) -> NDArray[np.int64]:
    return random.integers(0, contract.vocab_size, (rows, width))


def build_cache(contract: Contract, rows_of: RowsOf = random_rows) -> None:
    """Write a complete cache below ARSCHED_CACHE, of random rows by default; the last four tokens have no bytes."""
    random = np.random.default_rng(7)
    directory = cache_directory(contract)
    (directory / "train").mkdir(parents=True)
    (directory / "judge").mkdir()
    width = contract.sequence_length + 1
    counts = {"train": contract.train_tokens, "val": contract.evaluation_tokens, "holdout": contract.holdout_tokens}
    rows = {split: tokens // contract.sequence_length for split, tokens in counts.items()}
    for split, name in (("train", "train/rows.u16"), ("val", "judge/val.u16"), ("holdout", "judge/holdout.u16")):
        rows_of(random, rows[split], width, contract).astype("<u2").tofile(directory / name)
    np.ones(rows["train"], "<i4").tofile(directory / "train/epochs.i32")
    true = random.integers(1, 6, contract.vocab_size).astype(np.int32)
    true[-4:] = 0
    np.save(directory / "token_bytes.npy", true)
    np.save(directory / "token_bytes_upstream.npy", np.where(true == 5, 6, true).astype(np.int32))
    specials = tuple(f"<|special {number}|>" for number in range(4))
    ranks = tuple(number.to_bytes(2, "big") for number in range(contract.vocab_size - len(specials)))
    (directory / "tokenizer.json").write_text(Tokenizer(".", ranks, specials).to_json())
    paths = [path for path in directory.rglob("*") if path.is_file()]
    manifest = {
        "format": FORMAT,
        "contract_digest": contract.digest,
        "files": {
            str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in paths
        },
        "rows": rows,
        "versions": {"numpy": np.__version__},
    }
    (directory / MANIFEST_NAME).write_text(json.dumps(manifest))
    if contract.budget.clock == "work":
        write_calibration(contract, calibration_here(REFERENCE_S, quiet=True))


@dataclass(frozen=True)
class Judged:
    """What one judge left behind."""

    exit_code: int
    stderr: str
    out: Path

    @property
    def result(self) -> dict[str, Any]:
        assert (self.out / "result.json").exists(), f"no result; the judge said: {self.stderr}"
        return json.loads((self.out / "result.json").read_text())  # type: ignore[no-any-return]

    @property
    def log(self) -> str:
        return (self.out / "run.log").read_text(errors="replace")


class Rig:
    """A folder with a cache root and a contract file; runs judges and looks for what they left alive."""

    def __init__(self, folder: Path, contract: Contract = TINY, rows_of: RowsOf = random_rows) -> None:
        self.folder = folder
        self.environment = {**os.environ, "ARSCHED_CACHE": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY)}
        self.sandbox = ""  # the judge's own choice
        self._runs = 0
        self.use(contract, rows_of)

    def use(self, contract: Contract, rows_of: RowsOf = random_rows) -> None:
        """Judge by this contract from now on, building its cache when it has none."""
        self.contract_path = self.folder / f"{contract.digest[:12]}.json"
        is_new = not self.contract_path.exists()
        self.contract_path.write_text(contract.to_json())
        self.contract = load_contract(str(self.contract_path))
        if is_new:
            with self.cache_root_set():
                build_cache(self.contract, rows_of)

    @contextlib.contextmanager
    def cache_root_set(self) -> Iterator[None]:
        before = os.environ.get("ARSCHED_CACHE")
        os.environ["ARSCHED_CACHE"] = self.environment["ARSCHED_CACHE"]
        try:
            yield
        finally:
            if before is None:
                del os.environ["ARSCHED_CACHE"]
            else:
                os.environ["ARSCHED_CACHE"] = before

    def cache(self) -> Cache:
        from harness.cache import open_cache

        with self.cache_root_set():
            return open_cache(self.contract)

    def command(self, train: Path, *options: str) -> tuple[list[str], Path]:
        """The judge's command line for a fresh output directory, and that directory."""
        self._runs += 1
        out = self.folder / f"out{self._runs}"
        fixed = ["--contract", str(self.contract_path), "--train", str(train), "--out", str(out)]
        seed = [] if "--seed" in options else ["--seed", "1"]
        sandbox = self.sandbox or ("weak" if "subreaper" in options else "full")
        laxer = [] if "--sandbox" in options else ["--sandbox", sandbox]
        return [sys.executable, "-m", "harness.judge", *fixed, *seed, *laxer, *options], out

    def write(self, source: str) -> Path:
        """A candidate from its text."""
        self._runs += 1
        path = self.folder / f"candidate{self._runs}.py"
        path.write_text(source)
        return path

    def judge(self, train: Path, *options: str, timeout_s: float = 120.0) -> Judged:
        """Run the judge to its end."""
        command, out = self.command(train, *options)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout_s)
        return Judged(done.returncode, done.stderr, out)

    @contextlib.contextmanager
    def judging(self, train: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        """A judge that is still running, in a session of its own; killed on the way out if it still is."""
        command, out = self.command(train, *options)
        process = subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process, out
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def survivors(self) -> list[int]:
        """Living processes that run out of this rig's folder: what no judge may leave behind."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if _belongs(entry, self.folder):
                        found.append(int(entry.name))
        return found


def _belongs(entry: Path, folder: Path) -> bool:
    """Does a process live in this folder? A zombie has no working directory any more and does not count."""
    cwd = os.readlink(entry / "cwd")
    return cwd.startswith(str(folder)) or str(folder).encode() in (entry / "environ").read_bytes()


def phase_of(out: Path) -> str | None:
    """The phase a running judge shows in its progress file."""
    try:
        return str(json.loads((out / "progress.json").read_text())["phase"])
    except (OSError, ValueError):
        return None


def send_when(process: subprocess.Popen[str], number: signal.Signals, condition: Callable[[], Any], what: str) -> None:
    """Send a signal to one process once the condition holds."""
    wait_until(condition, what)
    process.send_signal(number)
