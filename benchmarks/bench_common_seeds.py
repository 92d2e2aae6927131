"""What a seed does to every program alike: baseline and edits with the same seeds, on the `cpu` contract, interleaved.

    python benchmarks/bench_common_seeds.py [--seeds 6] [--core 1]

Prints every score, the spread of each program over the seeds, the spread of the differences to the baseline seed by
seed, and how far the two are from what a fresh seed for every run would give. The contract's noise prior comes from it:
seed_sd is what the programs' scores have in common over the seeds, sigma what is left.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scheduler.policy.constants import rewrite_constants

EDITS: dict[str, dict[str, int | float]] = {
    "baseline": {},
    "MATRIX_LR 0.05": {"MATRIX_LR": 0.05},
    "EMBEDDING_LR 0.4": {"EMBEDDING_LR": 0.4},
    "batch of 4096": {"TOTAL_BATCH_SIZE": 4096},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    scores: dict[str, list[float]] = {name: [] for name in EDITS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, asked.seeds + 1):
            for name, values in EDITS.items():
                scores[name].append(judged(Path(folder), rewrite_constants(source, values), seed, asked.core))
                print(f"seed {seed}  {name}: {scores[name][-1]:.4f}", flush=True)
    show(scores)
    return 0


def judged(folder: Path, train_py: str, seed: int, core: int) -> float:
    """val_bpb of one run. Raises CalledProcessError where it gets none."""
    (folder / "train.py").write_text(train_py, encoding="utf-8")
    command = [sys.executable, "-m", "harness.judge", "--contract", "cpu", "--train", str(folder / "train.py")]
    command += ["--seed", str(seed), "--out", str(folder / "out"), "--cpus", str(core)]
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return float(json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))["val_bpb"])


def show(scores: dict[str, list[float]]) -> None:
    base = scores["baseline"]
    print("\n| program | mean | sd over seeds | sd of its difference to the baseline by seed | with other seeds |")
    print("|---|---|---|---|---|")
    for name, own in scores.items():
        paired = statistics.stdev([a - b for a, b in zip(own, base, strict=True)])
        apart = math.hypot(statistics.stdev(own), statistics.stdev(base))
        differences = f"{paired:.4f} | {apart:.4f}" if name != "baseline" else " | "
        print(f"| {name} | {statistics.fmean(own):.4f} | {statistics.stdev(own):.4f} | {differences} |")
    table = np.array(list(scores.values()))
    left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    programs, seeds = table.shape
    df = (programs - 1) * (seeds - 1)
    sigma2 = float((left**2).sum()) / df  # two-way analysis of variance without interaction
    seed2 = max(0.0, float(table.mean(axis=0).var(ddof=1)) - sigma2 / programs)
    print(f"\nsigma {math.sqrt(sigma2):.4f} ({df} degrees of freedom), seed_sd {math.sqrt(seed2):.4f} ({seeds} seeds)")


if __name__ == "__main__":
    sys.exit(main())
