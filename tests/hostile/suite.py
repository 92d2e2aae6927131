"""The hostile suite: one file per candidate, its expected verdict in it, judged for real on a small Markov text.

`python -m tests.hostile.suite [NAME...]` prints the table: candidate, expected, got. Files in candidates/ must gain
nothing; files in honest/ must be scored without an alarm. The tests over the same table are in test_hostile.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.contract import Budget, Contract, Limits
from tests.harness.judging import TINY, Judged, Rig

FOLDER = Path(__file__).resolve().parent
ARENA = dataclasses.replace(
    TINY,
    name="arena",
    summary="a Markov text",
    corpus=dataclasses.replace(TINY.corpus, kind="packages", root="ray"),
    sequence_length=64,
    train_tokens=1500 * 64,
    evaluation_tokens=512 * 64,
    holdout_tokens=256 * 64,
    budget=Budget(seconds=0.6, clock="cpu", grace_s=0.6, wall_limit_s=60.0, margin_s=0.2),
    limits=Limits(startup_s=60.0, evaluation_s=60.0, teardown_s=10.0, log_mb=0.25),
)
TORCH_BUDGET_S = 6.0  # a model in torch is not faster for being small
USED_TOKENS = 200
SUCCESSORS = (0.4, 0.25, 0.15, 0.1, 0.06, 0.04)


@dataclass(frozen=True)
class Candidate:
    """A file of the suite: `expected` is a status, or several with " or " where a race decides.

    `contract` holds fields of Budget and Limits that differ for it.
    """

    path: Path
    expected: str = "ok"
    contract: dict[str, float] = field(default_factory=dict)
    runs: int = 1
    torch: bool = False

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def honest(self) -> bool:
        return self.path.parent.name == "honest"

    def source(self, given: dict[str, Any]) -> str:
        """The program: the preludes, what the suite pastes in, the file."""
        preludes = ["prelude.py", "prelude_torch.py"][: 1 + self.torch]
        pasted = [f"{name} = {value!r}" for name, value in given.items()]
        own = self.path.read_text(encoding="utf-8")
        return "\n".join([*((FOLDER / name).read_text(encoding="utf-8") for name in preludes), *pasted, own])


def candidates() -> tuple[Candidate, ...]:
    """Every file of the suite, hostile ones first."""
    return tuple(_read(path) for kind in ("candidates", "honest") for path in sorted((FOLDER / kind).glob("*.py")))


def _read(path: Path) -> Candidate:
    """The constants EXPECTED, CONTRACT, RUNS and TORCH at the top of a file."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with contextlib.suppress(ValueError):
                found[node.targets[0].id.lower()] = ast.literal_eval(node.value)
    names = {each.name for each in dataclasses.fields(Candidate)}
    return Candidate(path, **{name: value for name, value in found.items() if name in names})


def markov_rows(random: np.random.Generator, rows: int, width: int, contract: Contract) -> NDArray[np.int64]:
    """Rows of one chain: every token has six successors that are more likely than the rest, which is one in fifty."""
    chain = np.random.default_rng(1).integers(0, USED_TOKENS, (USED_TOKENS, len(SUCCESSORS)))
    out = np.empty((rows, width), dtype=np.int64)
    out[:, 0] = random.integers(0, USED_TOKENS, rows)
    for t in range(1, width):
        likely = chain[out[:, t - 1], random.choice(len(SUCCESSORS), rows, p=SUCCESSORS)]
        out[:, t] = np.where(random.random(rows) < 0.02, random.integers(0, USED_TOKENS, rows), likely)
    return out


class Arena:
    """Judges candidates of the suite; `verdicts` are cached by nothing, every call is a run."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.rig = Rig(folder, ARENA, markov_rows)
        self._folder, self._options = folder, options
        self._servers = [socket.create_server(("0.0.0.0", 0))]
        self._bystander = subprocess.Popen(
            [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        )
        for name in (str(folder / "socket"), f"\0arsched-{os.getpid()}"):
            self._servers.append(socket.socket(socket.AF_UNIX))
            self._servers[-1].bind(name)
            self._servers[-1].listen()

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._bystander.communicate()

    @property
    def bystander_lives(self) -> bool:
        return self._bystander.poll() is None

    def judge(self, candidate: Candidate, *options: str) -> Judged:
        """Judge it as often as it asks for; the last run counts."""
        contract = changed(
            ARENA, {"seconds": TORCH_BUDGET_S} | candidate.contract if candidate.torch else candidate.contract
        )
        self.rig.use(contract, markov_rows)
        train = self.rig.write(candidate.source(self._pasted(candidate)))
        for _ in range(candidate.runs):
            judged = self.rig.judge(train, "--lock", str(self._folder / "slot.lock"), *self._options, *options)
        return judged

    @functools.cached_property
    def honest_bpb(self) -> float:
        """What a table of bigrams is worth here, from the rows that every candidate has."""
        [bigram] = [candidate for candidate in candidates() if candidate.honest and candidate.name == "bigram"]
        return float(self.judge(bigram).result["val_bpb"])

    def _pasted(self, candidate: Candidate) -> dict[str, Any]:
        host = socket.gethostbyname(socket.gethostname())
        values = {
            "LISTENING_PORT": self._servers[0].getsockname()[1],
            "LISTENING_HOST": host,
            "LISTENING_PATH": str(self._folder / "socket"),
            "LISTENING_NAME": f"arsched-{os.getpid()}",
            "BYSTANDER": self._bystander.pid,
        }
        text = candidate.path.read_text(encoding="utf-8")
        pasted = {name: value for name, value in values.items() if name in text}
        if "VALIDATION_ROWS" in text:
            pasted["VALIDATION_ROWS"] = np.fromfile(self.rig.cache().val_rows_path, "<u2").reshape(-1, 65).tolist()
        return pasted


def changed(contract: Contract, fields: dict[str, float]) -> Contract:
    """The contract with other fields of its budget or its limits."""
    parts = {}
    for name in ("budget", "limits"):
        part = getattr(contract, name)
        known = {each.name for each in dataclasses.fields(part)}
        parts[name] = dataclasses.replace(part, **{key: value for key, value in fields.items() if key in known})
    return dataclasses.replace(contract, **parts)


def fault(candidate: Candidate, judged: Judged, arena: Arena) -> str:
    """What is wrong with the outcome of a run; "" when it is as it should be."""
    if not (judged.out / "result.json").exists():
        return f"no result: {judged.stderr}"
    result, reached = judged.result, [line for line in judged.log.splitlines() if line.startswith("REACHED")]
    if result["status"] not in candidate.expected.split(" or "):
        return f"{result['status']}: {result['reason']}\n{judged.log[-2000:]}"
    if left := [path.name for path in (arena.rig.folder / "cache").rglob("left*")]:
        return f"left in the cache: {left}"
    if reached:
        return "; ".join(reached)
    if not arena.bystander_lives:
        return "killed a process of another run"
    scored = result["status"] == "ok" or result["status"].startswith("suspect: ")
    if scored != (result["val_bpb"] is not None):
        return f"val_bpb {result['val_bpb']}"
    if candidate.expected == "ok" and not candidate.honest and result["val_bpb"] < arena.honest_bpb - 1e-6:
        return f"val_bpb {result['val_bpb']} where an honest one has {arena.honest_bpb}"
    return ""


@contextlib.contextmanager
def opened_arena(*options: str) -> Iterator[Arena]:
    with tempfile.TemporaryDirectory(prefix="arsched-hostile-") as folder:
        arena = Arena(Path(folder), *options)
        try:
            yield arena
        finally:
            arena.close()


def main(names: list[str]) -> int:
    """Print the table of the suite, or of the candidates named; 1 when one got what it should not."""
    faults = 0
    with opened_arena() as arena:
        for candidate in candidates():
            if names and candidate.name not in names:
                continue
            judged = arena.judge(candidate)
            wrong = fault(candidate, judged, arena)
            faults += bool(wrong)
            result = {"status": "none", "val_bpb": None} if wrong.startswith("no result") else judged.result
            bpb = result["val_bpb"]
            figure = "" if bpb is None else f"{bpb:.4f}"
            mark = f"  FAULT: {wrong}" if wrong else ""
            sys.stdout.write(
                f"{candidate.name:<36} {candidate.expected:<26} {judged.result['status']:<26} {figure:>8}{mark}\n"
            )
            sys.stdout.flush()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
