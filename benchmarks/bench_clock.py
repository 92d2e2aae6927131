"""How much do steps and val_bpb of one program scatter on a busy machine, by a clock of CPU seconds and of work?

    python benchmarks/bench_clock.py --runs 16                    neighbours come and go (benchmarks/machine_load.py)
    python benchmarks/bench_clock.py --runs 16 --quiet            none do
    python benchmarks/bench_clock.py --runs 16 --vary-seed        every pair of runs has a seed of its own

Runs of train.py under the contract `cpu`, one at a time on one core, in pairs: one of each clock, in an order
drawn by the load's seed, while one schedule of load goes on. Prints every run, both clocks' means and standard
deviations, and what reading the core's speed costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine_load import machine_load
from harness.contract import load_contract
from harness.core_probe import CoreProbe
from harness.judge.clock import CPU_S_PER_READING

CLOCKS = ("cpu", "work")
SEED = 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=16, help="of each clock")
    parser.add_argument("--load-seed", type=int, default=7)
    parser.add_argument("--quiet", action="store_true", help="no load")
    parser.add_argument("--vary-seed", action="store_true", help="a seed for each pair; else all runs have one")
    parser.add_argument("--train", type=Path, default=ROOT / "train.py")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {clock: [] for clock in CLOCKS}
    with tempfile.TemporaryDirectory(prefix="bench-clock-") as folder:
        contracts = {clock: prepared(clock, Path(folder)) for clock in CLOCKS}
        print(f"a reading of the core's speed: {cost_of_reading():.2%} of a candidate's CPU time", flush=True)
        with machine_load(None if asked.quiet else asked.load_seed):
            for pair in range(asked.runs):
                for clock in random.Random(f"{asked.load_seed}/{pair}").sample(CLOCKS, 2):
                    seed = SEED + pair * asked.vary_seed
                    result = judged(contracts[clock], asked.train, Path(folder, f"{clock}{pair}"), seed, asked.core)
                    print(f"{pair + 1:3} {clock:>5}  {line_of(result)}", flush=True)
                    if result["status"] == "ok":
                        results[clock].append(result)
    print()
    for clock in CLOCKS:
        print(summary(clock, results[clock]))
    return 0


def prepared(clock: str, folder: Path) -> Path:
    """The contract `cpu` by one of the clocks as a file, its cache made."""
    shipped = load_contract("cpu")
    budget = dataclasses.replace(shipped.budget, clock=clock)  # type: ignore[arg-type]
    path = folder / f"{clock}.json"
    path.write_text(dataclasses.replace(shipped, budget=budget).to_json(), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "harness.prepare", "--contract", str(path)], cwd=ROOT, check=True)
    return path


def judged(contract: Path, train: Path, out: Path, seed: int, core: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "harness.judge", "--contract", str(contract), "--train", str(train)]
    command += ["--seed", str(seed), "--out", str(out), "--cpus", str(core)]
    subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL, check=False)
    return dict(json.loads((out / "result.json").read_text(encoding="utf-8")))


def line_of(result: dict[str, Any]) -> str:
    budget, machine = result["budget"], result["machine"] or {}
    if result["status"] != "ok":
        return f"{result['status']}: {result['reason']}"
    speed = "" if machine["speed"] is None else f"  speed {machine['speed']:.3f}"
    load = f"  load {machine['load']:.1f}  steal {machine['steal']}"
    figures = f"steps {result['training']['steps']:4}  val_bpb {result['val_bpb']:.4f}"
    spent = f"used {budget['used_s']:.2f} s  CPU {budget['cpu_s']:.2f} s in {budget['train_wall_s']:.0f} s"
    return f"{figures}  {spent}{speed}{load}"


def summary(clock: str, results: list[dict[str, Any]]) -> str:
    if len(results) < 2:
        return f"{clock:>5}: too few runs"
    steps = [float(result["training"]["steps"]) for result in results]
    scores = [float(result["val_bpb"]) for result in results]
    mean, sd = statistics.fmean(steps), statistics.stdev(steps)
    said = f"{clock:>5}: {len(results)} runs, steps {mean:.1f}, sd {sd:.2f} ({sd / mean:.1%})"
    return f"{said}; val_bpb {statistics.fmean(scores):.4f}, sd {statistics.stdev(scores):.4f}"


def cost_of_reading() -> float:
    """CPU time of a reading, its warm-up included, as a share of the CPU time between two."""
    probe, spent = CoreProbe(), []
    for _ in range(30):
        probe.use_caches(0.05)
        began = time.thread_time()
        probe.read()
        spent.append(time.thread_time() - began)
    return statistics.fmean(spent) / CPU_S_PER_READING


if __name__ == "__main__":
    sys.exit(main())
