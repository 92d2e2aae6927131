"""What the stages of gpu_quarter.py stand on: a plan, answers on disk, contracts, rows, judged runs.

Covers: the standard shape made without PyYAML, a cache of random rows, child processes that die with their parent, what
a judged run showed. Every answer is one line of JSON, on disk before the next is asked. Not covered: what is asked
(gpu_stages), order and deadlines (gpu_quarter). Standard library and harness only, numpy for random rows.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout, nothing installed

from harness.cache import FORMAT, MANIFEST_NAME, CacheError, cache_directory, open_cache, sha256_of
from harness.containment import die_with_parent
from harness.contract import Budget, Contract, Corpus, Limits, prepared_contract_path
from harness.tokenizer import Tokenizer
from scheduler.policy.constants import rewrite_constants

Values = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
ANSWERS_NAME = "answers.jsonl"
SMOKE_NOTE = "smoke run on CPU: plumbing only, no figure here means anything"
SAID_SO = 3  # exit code of a stage that failed and has written why
_TOKENS_PER_S = 4_000_000  # more than one GPU of today eats, so that the rows cannot run out
_SEED_ROWS = 7  # two contracts of one shape get the same random rows


@dataclass(frozen=True, slots=True)
class Plan:
    """One stage: where answers go, where the work lies, the seconds it has; `upstream` is a path or empty."""

    stage: str
    out: str
    work: str
    smoke: bool
    upstream: str
    deadline_s: float
    began: float = dataclasses.field(default_factory=time.monotonic)

    def left_s(self) -> float:
        return self.began + self.deadline_s - time.monotonic()

    def path(self, *parts: str) -> Path:
        return Path(self.work, *parts)

    def answer(self, name: str, values: Values, began: float | None = None) -> None:
        self._line({"answer": name}, began, values)

    def error(self, text: str, values: Values | None = None, began: float | None = None) -> None:
        self._line({"error": text}, began, values or {})

    def fail(self, text: str, values: Values | None = None) -> NoReturn:
        self.error(text, values)
        sys.exit(SAID_SO)

    def _line(self, kind: dict[str, str], began: float | None, values: Values) -> None:
        seconds = round(time.monotonic() - (self.began if began is None else began), 2)
        note = {"note": SMOKE_NOTE} if self.smoke else {}
        line = {"stage": self.stage, **kind, "seconds": seconds, "values": values, **note}
        text = json.dumps(line, allow_nan=False, default=str) + "\n"
        with open(Path(self.out, ANSWERS_NAME), "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def shipped_contract(name: str) -> Contract:
    """A contract of harness/contracts, read without PyYAML: `key: value` lines and one level of indented ones."""
    fields: dict[str, Any] = {}
    inner = fields
    for line in (ROOT / "harness" / "contracts" / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        content = line.partition("#")[0].rstrip()
        key, _, value = content.strip().partition(":")
        if content and not value:
            inner = fields[key] = {}
        elif content:
            (inner if line.startswith(" ") else fields)[key] = _scalar(value.strip())
    return Contract.from_json(json.dumps(fields))


def _scalar(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def leave_contract(name: str) -> None:
    """Have a shipped contract where it is read on a machine without PyYAML, as `prepare` leaves it."""
    path = prepared_contract_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(shipped_contract(name).to_json(), encoding="utf-8")


def contract_of(plan: Plan, name: str, seconds: float, val_rows: int, evaluation_s: float = 60.0) -> Contract:
    """The standard shape over Python sources; for a smoke run the cpu contract, shrunk to seconds.

    Its limits let a judge end by itself, with its log, before the stage's deadline. Scores do not compare with those of
    the shipped contracts.
    """
    shipped = shipped_contract("cpu" if plan.smoke else "standard")
    upstream = name == "upstream"
    seconds, val_rows = (1.5, min(val_rows, 64)) if plan.smoke else (seconds, val_rows)
    margin_s = 120.0 if upstream else 1.0  # upstream's file compiles after its first batch and does not time 11 steps
    clock: Literal["wall", "cpu"] = "wall" if upstream or not plan.smoke else "cpu"  # nothing is calibrated here
    corpus = Corpus("python", "stdlib" if plan.smoke else "prefix", shipped.corpus.document_chars, 10)
    contract = dataclasses.replace(
        shipped,
        name=f"quarter-{name}",
        corpus=corpus,
        tokenizer_chars=1_000_000 if plan.smoke else 30_000_000,
        train_tokens=2_000_000 if plan.smoke else int(_TOKENS_PER_S * (seconds + 1)),
        evaluation_tokens=val_rows * shipped.sequence_length,
        holdout_tokens=64 * shipped.sequence_length,
        budget=Budget(seconds + margin_s, clock, 5.0, wall_limit_s=seconds + margin_s + 60, margin_s=margin_s),
        limits=Limits(startup_s=180.0, evaluation_s=evaluation_s, teardown_s=15.0, log_mb=4.0),
        compat="upstream" if upstream else "none",
    )
    return Contract.from_json(contract.to_json())  # as every other process reads it: 60 and 60.0 have two digests


def random_rows(contract: Contract) -> Contract:
    """Write a whole cache of random rows for the contract; the last four tokens stand for no bytes."""
    import numpy as np

    random = np.random.default_rng(_SEED_ROWS)
    folder, vocab = cache_directory(contract), contract.vocab_size
    counts = {"val": contract.evaluation_tokens, "holdout": contract.holdout_tokens, "train": contract.train_tokens}
    rows = {split: tokens // contract.sequence_length for split, tokens in counts.items()}
    for name, split in (("judge/val.u16", "val"), ("judge/holdout.u16", "holdout"), ("train/rows.u16", "train")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        random.integers(vocab, size=(rows[split], contract.sequence_length + 1), dtype=np.uint16).tofile(folder / name)
    np.ones(rows["train"], "<i4").tofile(folder / "train/epochs.i32")
    token_bytes = random.integers(1, 6, vocab).astype(np.int32)
    token_bytes[-4:] = 0
    for name in ("token_bytes.npy", "token_bytes_upstream.npy"):
        np.save(folder / name, token_bytes)
    ranks = tuple(number.to_bytes(2, "big") for number in range(vocab - 4))
    text = Tokenizer(".", ranks, tuple(f"<|reserved_{i}|>" for i in range(4))).to_json()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME]
    listed = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in files}
    manifest = {"format": FORMAT, "contract_digest": contract.digest, "files": listed, "rows": rows}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest), encoding="utf-8")
    return contract


def prepared_or_random(contract: Contract) -> tuple[Contract, str]:
    """The contract with its prepared rows, or, where there are none, one of the same shape with random rows."""
    try:
        open_cache(contract)
    except CacheError:
        return random_rows(dataclasses.replace(contract, name=f"{contract.name}-random")), "random rows"
    return contract, "python sources"


def written(plan: Plan, contract: Contract) -> Path:
    path = plan.path(f"{contract.name}.json")
    path.write_text(contract.to_json(), encoding="utf-8")
    return path


def candidate(plan: Plan, name: str, constants: Any) -> Path:
    """A copy of one of the repository's candidates with these constants set."""
    path = plan.path(Path(name).name)
    source = (ROOT / name).read_text(encoding="utf-8")
    path.write_text(rewrite_constants(source, dict(constants)), encoding="utf-8")
    return path


def child(command: list[str], **environment: str) -> str:
    """Run python with these arguments; what it says on stderr goes to the log. Returns its stdout."""
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=die_with_parent,
    )
    if ended.returncode:
        print(ended.stdout[-2000:], flush=True)
        raise ChildFailed(f"{' '.join(command[:3])} ended with exit code {ended.returncode}")
    return ended.stdout


class ChildFailed(Exception):
    """A child process ended without an answer; its own words are in the log."""


def judge(plan: Plan, name: str, contract: Contract, train: Path, *options: str) -> tuple[Values, str]:
    """Judge one run to its end; returns what it showed, and its log."""
    out = plan.path("runs", name)
    order = ["--contract", str(written(plan, contract)), "--train", str(train), "--seed", "1", "--out", str(out)]
    command = [sys.executable, "-m", "harness.judge", *order, *options]
    ended = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False, preexec_fn=die_with_parent)
    log = text_of(out / "run.log")
    print(log[-20_000:].replace("\r", "\n"), flush=True)
    if not (out / "result.json").is_file():
        raise ChildFailed(f"the judge ended with exit code {ended.returncode} and left no result.json")
    return run_values(json.loads(text_of(out / "result.json")), log, contract), log


def run_values(result: Values, log: str, contract: Contract) -> Values:
    """What a run showed; where train.py reported nothing to the judge, as upstream's does not, what its log says."""
    summary = dict(re.findall(r"^(\w+): +(\S+)$", log.rpartition("---\n")[2], re.MULTILINE))
    times = sorted(float(ms) for ms in re.findall(r"dt: (\d+(?:\.\d+)?)ms", log))
    step_ms = statistics.median(times) if times else None
    training, batch = result["training"] or {}, dict(contract.train_constants)["TOTAL_BATCH_SIZE"]
    rate = training.get("tokens_per_s") or (step_ms and 1000 * int(batch) / step_ms)
    mfu = 100 * training["mfu"] if training.get("mfu") else summary.get("mfu_percent")
    copied = ("status", "reason", "val_bpb", "val_bpb_upstream", "attention", "containment", "peak_memory_mb")
    return {name: result[name] for name in copied} | {
        "exchange": result.get("exchange"),
        "phases_s": result["phases_s"],
        "wall_s": result["wall_s"],
        "train_wall_s": result["budget"]["train_wall_s"],
        "steps": training.get("steps") or (summary.get("num_steps") and int(summary["num_steps"])),
        "tokens": training.get("tokens") or (summary.get("total_tokens_M") and 1e6 * float(summary["total_tokens_M"])),
        "tokens_per_s": rate,
        "mfu_percent": mfu and float(mfu),
        "step_ms": step_ms,
        "step_ms_p90": times[int(0.9 * len(times))] if times else None,
        "device": result["device"],
    }


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def read_answers(out: Path) -> Iterator[Values]:
    """The whole lines of answers.jsonl, in order."""
    for line in text_of(out / ANSWERS_NAME).splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        if isinstance(answer, dict) and {"stage", "values"} <= answer.keys():
            yield answer
