"""How many seconds does a slot lose per run to scheduling? RayPool against a plain subprocess pool, paired.

    python benchmarks/bench_overhead.py [--runs 100] [--rounds 5] [--slots 2] [--pace 0.05]

Both run the same no-op judge with the same files on the same slots, in turn, the order of each pair drawn by lot. A
figure is slots × wall seconds / runs: the time one slot is taken up per run. The difference is what Ray, actors, spools
and polling cost; the promise is at most 50 ms. `--pace` is the pause between two looks at the pool.
Measures the pool alone: ledger and git are not in it, nor is starting Ray (printed apart).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout, nothing installed

from scheduler.domain.slot import Done, RunOrder
from scheduler.node.judge_process import Commands
from scheduler.node.supervisor import NodeSettings
from scheduler.ray.pool import RayPool

NOOP = (sys.executable, "-S", str(Path(__file__).with_name("noop_judge.py")))
CONTRACT = json.dumps({"name": "noop", "device": "cpu"})
TRAIN_PY = b"# nothing to train\n" * 1500  # the size of a real one


class PlainPool:
    """What one would write in a minute: threads, folders, subprocess.run."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.folder, self.slots = folder, slots

    def run(self, run_ids: list[str]) -> None:
        with ThreadPoolExecutor(self.slots) as threads:
            for text in threads.map(self._judge, run_ids):
                assert json.loads(text)["status"] == "ok"

    def _judge(self, run_id: str) -> str:
        out = self.folder / run_id
        out.mkdir()
        (out / "train.py").write_bytes(TRAIN_PY)
        subprocess.run([*NOOP, "--out", str(out)], check=True)
        text = (out / "result.json").read_text()
        shutil.rmtree(out)
        return text


class PacedRayPool:
    """RayPool, driven the way the scheduler's loop drives it: collect, acknowledge, place, pause."""

    def __init__(self, pool: RayPool, pace_s: float) -> None:
        self.pool, self.pace_s = pool, pace_s

    def run(self, run_ids: list[str]) -> None:
        queue, free, left = list(run_ids), [slot.id for slot in self.pool.slots()], len(run_ids)
        while left:
            for report in self.pool.poll():
                if isinstance(report, Done):
                    self.pool.acknowledge(report.slot_id, report.run_id, report.attempt)
                    free.append(report.slot_id)
                    left -= 1
            while queue and free:
                self.pool.start(free.pop(0), make_order(queue.pop(0)))
            time.sleep(self.pace_s)


def make_order(run_id: str) -> RunOrder:
    return RunOrder(
        "bench", run_id, 1, TRAIN_PY, hashlib.sha256(TRAIN_PY).hexdigest(), CONTRACT, "0" * 64, 1, "beef" * 8
    )


def seconds_per_run(pool: PlainPool | PacedRayPool, run_ids: list[str], slots: int) -> float:
    began = time.perf_counter()
    pool.run(run_ids)
    return slots * (time.perf_counter() - began) / len(run_ids)


def measure_pairs(plain: PlainPool, paced: PacedRayPool, asked: argparse.Namespace) -> list[tuple[float, float]]:
    """One (plain, ray) pair of seconds per run for every round; round 0 warms up and is not counted."""
    draw, pairs = random.Random(asked.seed), []
    for number in range(asked.rounds + 1):
        sides = {"plain": plain, "ray": paced}
        took = {}
        for name in draw.sample(sorted(sides), 2):
            run_ids = [f"{name}{number}x{index}" for index in range(asked.runs)]
            took[name] = seconds_per_run(sides[name], run_ids, asked.slots)
        print(f"round {number}: plain {took['plain']:.4f} s/run, ray {took['ray']:.4f} s/run", flush=True)
        pairs.append((took["plain"], took["ray"]))
    return pairs[1:]


def report(pairs: list[tuple[float, float]], connect_s: float, asked: argparse.Namespace) -> None:
    extra = [ray - plain for plain, ray in pairs]
    spread = statistics.stdev(extra) if len(extra) > 1 else float("nan")
    print(
        f"\n{platform.machine()}, {asked.slots} slots, {asked.rounds} rounds of {asked.runs} runs, pace {asked.pace} s"
    )
    for name, values in (("plain subprocess pool", [pair[0] for pair in pairs]), ("RayPool", [p[1] for p in pairs])):
        print(f"{name:22} {statistics.median(values):.4f} s/run  (from {min(values):.4f} to {max(values):.4f})")
    print(f"{'extra through Ray':22} {statistics.mean(extra):.4f} ± {spread:.4f} s/run  (sd over rounds)")
    print(f"{'starting Ray':22} {connect_s:.1f} s, once")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds of scheduling per run, through Ray and without.")
    parser.add_argument("--runs", type=int, default=100, help="runs per round and side")
    parser.add_argument("--rounds", type=int, default=5, help="pairs that count")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--pace", type=float, default=0.05, help="seconds between two looks at the pool")
    parser.add_argument("--seed", type=int, default=1, help="of the order within pairs")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    with tempfile.TemporaryDirectory(prefix="arsched-bench-") as folder:
        settings = NodeSettings(Path(folder) / "spool", Commands(NOOP, NOOP))
        began = time.perf_counter()
        pool = RayPool.connect(None, asked.slots, CONTRACT, "bench", settings=settings, say=print)
        connect_s = time.perf_counter() - began
        try:
            pairs = measure_pairs(PlainPool(Path(folder), asked.slots), PacedRayPool(pool, asked.pace), asked)
        finally:
            pool.close(stop_runs=True)
    report(pairs, connect_s, asked)


if __name__ == "__main__":
    main()
