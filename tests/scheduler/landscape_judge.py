"""A judge that trains nothing: the score of a train.py follows from its constants, by a fixed landscape plus noise.

For tests that want the real train.py, the real commands and many runs in seconds. An odd HEAD_DIM crashes, DEPTH above
32 runs out of memory. Obeys the real judge's command line, locks and files. Standard library only.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import math
import random
import sys
import time
from typing import Any

from fake_judge import FakeJudge, parse  # type: ignore[import-not-found]

NOISE_BPB = 0.004
CRASH = "RuntimeError: heads of an odd width cannot be split in two"
BEST = {"DEPTH": (2, 0.06), "MATRIX_LR": (0.08, 0.01), "EMBEDDING_LR": (0.6, 0.004), "TOTAL_BATCH_SIZE": (2048, 0.02)}


def constants_of(source: str) -> dict[str, Any]:
    """Literal constants at the top level of a program."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def true_bpb(constants: dict[str, Any]) -> float:
    """The landscape: a bowl in the logarithm of each constant, and a penalty without the soft cap."""
    bowl = sum(
        weight * math.log2(max(constants.get(name, best), 1e-9) / best) ** 2 for name, (best, weight) in BEST.items()
    )
    return 1.62 + bowl + (0.0 if constants.get("SOFTCAP", 15.0) else 0.05)


class LandscapeJudge(FakeJudge):  # type: ignore[misc]
    def run(self) -> int:
        with self.arguments.lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            source = self.arguments.train.read_bytes()
            self.report_progress(100)
            time.sleep(0.02)
            return int(self.finish(json.dumps(self.judge(source))))

    def judge(self, source: bytes) -> dict[str, Any]:
        constants = constants_of(source.decode())
        facts = {
            "format": 1, "status": "ok", "reason": "", "seed": self.arguments.seed, "wall_s": 26.0,
            "budget": {"used_s": 20.0}, "phases_s": {"import": 1.6, "train": 20.2, "evaluate": 1.2},
            "training": {"steps": 200, "tokens": 409600, "tokens_per_s": 20480.0, "last_loss": 3.5},
            "peak_memory_mb": 480.9, "device": {"name": "a landscape"}, "attention": "sdpa",
            "digests": {
                "train_py": hashlib.sha256(source).hexdigest(), "cache": self.arguments.expect_cache,
            },
        }  # fmt: skip
        if failure := self.failure(constants):
            return facts | dict(zip(("status", "reason"), failure, strict=True))
        noise = random.Random(self.arguments.seed).gauss(0.0, NOISE_BPB)
        return facts | {"val_bpb": true_bpb(constants) + noise}

    def failure(self, constants: dict[str, Any]) -> tuple[str, str] | None:
        if constants.get("HEAD_DIM", 32) % 2:
            self.log.write(f"Traceback (most recent call last):\n{CRASH}\n")
            return "crash", f"train.py crashed (exit code 1): {CRASH}"
        if constants.get("DEPTH", 4) > 32:
            return "oom", "out of memory"
        return None


if __name__ == "__main__":
    sys.exit(LandscapeJudge(parse()).run())
