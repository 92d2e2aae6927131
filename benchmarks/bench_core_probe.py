"""Does the probe of a work clock follow what a training step costs? Windows of train.py's steps under toggled loads.

    python benchmarks/bench_core_probe.py [--rounds 4] [--window-s 7] [--core 1]

Steps of the `cpu` contract's baseline on one core; a second process there reads the parts of harness.core_probe every
0.1 s, as the judge does. Loads are pinned, to the same core or to another. Prints, for each part and for the whole
reading, the slope of log(CPU seconds a step) on log(reading) over all windows and what is left: a perfect probe has
slope 1 and leaves nothing. Then the same with fewer readings, and with their median for their mean; and the cost of a
step, 1 without load, as a sum: a constant, a share that goes with the reading, and one with the share of the core that
others have.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ |= {"ARSCHED_CONTRACT": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np

from benchmarks.machine_load import start
from harness.core_probe import CoreProbe
from harness.judge.cpu_time import OthersShare
from harness.judge.launch import let_judge_read

SAME, OTHER = "same core", "other core"
TRAINING = "training"  # what runs in the other slot
LOADS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    ((TRAINING, OTHER),),
    ((TRAINING, OTHER), ("spin", SAME)),
    ((TRAINING, OTHER), ("memory", SAME), ("memory", OTHER)),
    (("memory", OTHER),),
    (("memory", SAME),),
    (("memory", OTHER), ("memory", SAME)),
    (("spin", SAME),),
    (("spin", SAME), ("spin", SAME)),
    (("matmul", SAME),),
    (("random", SAME),),
    (("random", OTHER), ("random", SAME), ("memory", OTHER)),
)
NOTHING = "nothing"
INTERVAL_S = 0.1
SETTLE_S = 0.7


class Window(NamedTuple):
    """CPU seconds of a step, mean over the window; CPU seconds by part of the readings; others' share of the core."""

    load: str
    step_s: float
    readings: tuple[dict[str, float], ...]
    others: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--window-s", type=float, default=7.0)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--read-to", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    others = sorted(os.sched_getaffinity(0) - {asked.core}) or [asked.core]
    os.sched_setaffinity(0, {asked.core})
    if asked.read_to:
        return read_until_orphaned(asked.read_to)
    if asked.train:
        return train_until_killed()
    show(measure(asked.rounds, asked.window_s, {SAME: asked.core, OTHER: others[0]}))
    return 0


def read_until_orphaned(path: Path) -> int:
    probe, parent = CoreProbe(), os.getppid()
    let_judge_read(parent)
    parts: dict[str, Callable[[], object]] = {"compute": probe._compute, "copy": lambda: _copy(probe)}
    with path.open("w", encoding="utf-8", buffering=1) as file:
        while os.getppid() == parent:
            reading = {"whole": probe.read().seconds} | {name: _timed(part) for name, part in parts.items()}
            file.write(json.dumps({"at": time.monotonic(), "spent": time.process_time(), **reading}) + "\n")
            time.sleep(INTERVAL_S)
    return 0


def train_until_killed() -> int:
    step = _training_step()
    while True:
        step()
        print("trains", flush=True)


def _copy(probe: CoreProbe) -> None:
    np.copyto(probe._copy, probe._source)


def _timed(part: Callable[[], object]) -> float:
    part()
    began = time.thread_time()
    part()
    return time.thread_time() - began


def measure(rounds: int, window_s: float, cores: dict[str, int]) -> list[Window]:
    step = _training_step()
    order = [load for seed in range(rounds) for load in random.Random(seed).sample(LOADS, len(LOADS))]
    windows = []
    with tempfile.TemporaryDirectory() as folder, _reader(Path(folder) / "readings", cores[SAME]) as path:
        for load in order:
            with _pinned(load, cores):
                time.sleep(SETTLE_S)
                others = OthersShare([cores[SAME]], looks=1)
                others.look(_own_s(path))
                began, costs = time.monotonic(), []
                while time.monotonic() - began < window_s:
                    before = time.process_time()
                    step()
                    costs.append(time.process_time() - before)
                share = others.look(_own_s(path))
                readings = tuple(one for one in _read(path) if one["at"] >= began)
            name = ", ".join(f"{kind} on the {where}" for kind, where in load) or NOTHING
            windows.append(Window(name, statistics.fmean(costs), readings, share))
            said = f"{1e3 * windows[-1].step_s:.1f} ms a step, {len(readings)} readings, others have {share:.0%}"
            print(f"{name}: {said}", file=sys.stderr)
    return windows


def _own_s(path: Path) -> float:
    """CPU seconds of this process and of the reader."""
    return time.process_time() + max((one["spent"] for one in _read(path)), default=0.0)


def _training_step() -> Callable[[], object]:
    import torch

    import train
    from harness import MAX_SEQ_LEN, Tokenizer, make_dataloader

    torch.set_num_threads(1)
    tokenizer, device = Tokenizer.from_directory(), train.training_device()
    trainer = train.Trainer(train.build_model(tokenizer.get_vocab_size(), device), device, 1)
    trainer.warm_up()
    loader = make_dataloader(tokenizer, train.DEVICE_BATCH_SIZE, MAX_SEQ_LEN, "train")
    return lambda: trainer.step(loader, 100, 0.3)


@contextmanager
def _reader(path: Path, core: int) -> Iterator[Path]:
    command = [sys.executable, __file__, "--read-to", str(path), "--core", str(core)]
    with subprocess.Popen(command) as process:
        try:
            while not path.exists():
                time.sleep(0.1)
            yield path
        finally:
            process.kill()


@contextmanager
def _pinned(load: Sequence[tuple[str, str]], cores: dict[str, int]) -> Iterator[None]:
    running = [_start(kind) for kind, _ in load]
    for process, (_, where) in zip(running, load, strict=True):
        os.sched_setaffinity(process.pid, {cores[where]})
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _start(kind: str) -> subprocess.Popen[bytes]:
    if kind != TRAINING:
        return start(kind)
    process = subprocess.Popen([sys.executable, __file__, "--train"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    threading.Thread(target=process.stdout.read, daemon=True).start()
    return process


def _read(path: Path) -> list[dict[str, float]]:
    whole_lines = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in whole_lines]


def show(windows: Sequence[Window]) -> None:
    costs = [math.log(window.step_s) for window in windows]
    print(f"{len(windows)} windows: CPU time a step varies by {statistics.stdev(costs):.1%}\n")
    print("| reading | every | taken as | slope | left of that |\n|---|---|---|---|---|")
    mean: tuple[str, Any] = ("mean", statistics.fmean)
    for part in ("compute", "copy", "whole"):
        _line(windows, costs, part, 1, mean)
    for every in (2, 4):
        _line(windows, costs, "whole", every, mean)
    _line(windows, costs, "whole", 1, ("median", statistics.median))
    _show_sum(windows)


def _show_sum(windows: Sequence[Window]) -> None:
    quiet = [window for window in windows if window.load == NOTHING]
    others = np.array([window.others for window in windows])
    costs = np.array([window.step_s for window in windows]) / statistics.fmean(window.step_s for window in quiet)
    print("\n| reading | constant | with the reading | with others' share of the core | left |\n|---|---|---|---|---|")
    for part in ("copy", "whole"):
        readings = np.array([statistics.fmean(one[part] for one in window.readings) for window in windows])
        readings /= statistics.fmean(statistics.fmean(one[part] for one in window.readings) for window in quiet)
        for shares in (np.zeros_like(costs), others):
            terms = np.column_stack([np.ones_like(costs), readings, shares])
            weights = np.linalg.lstsq(terms, costs, rcond=None)[0]
            left = float(np.std(np.log(costs / (terms @ weights))))
            print(f"| {part} | {weights[0]:.2f} | {weights[1]:.2f} | {weights[2]:.2f} | {left:.1%} |")


def _line(windows: Sequence[Window], costs: Sequence[float], part: str, every: int, taken: tuple[str, Any]) -> None:
    name, of = taken
    readings = [math.log(of([one[part] for one in window.readings[::every]])) for window in windows]
    fit = statistics.linear_regression(readings, costs)
    left = [cost - fit.slope * reading for cost, reading in zip(costs, readings, strict=True)]
    spread = statistics.stdev(left)
    print(f"| {part} | {every * INTERVAL_S:.1f} s | {name} | {fit.slope:.2f} | {spread:.1%} |")


if __name__ == "__main__":
    sys.exit(main())
