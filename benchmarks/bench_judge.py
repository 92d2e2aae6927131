"""What being judged costs: an evaluation with the judge and its probes against the same evaluation in-process, paired.

    python benchmarks/bench_judge.py [--pairs 9] [--core 0]

The untrained model of train.py on the prepared `cpu` contract (`arsched prepare --contract cpu`), everything on one
core. A figure is the CPU time of all processes and the wall time of one evaluation; the order of each pair is drawn by
lot. Then the sandbox, as the wall time of a whole run of a train.py that does nothing, with it and without. On a
machine with a GPU and a prepared `standard` cache, `--contract standard` does the same there on the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from socket import socket

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a bare checkout, nothing installed
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch

from harness.cache import open_cache
from harness.contract import load_contract
from harness.judge.data import judge_data
from harness.judge.evaluation import Evaluation, transports
from harness.judge.evaluation_plan import forward_rows_of, plan_evaluation
from harness.judge.serving import ProbedServing
from harness.logits_server import forward_of, score_in_process, serve
from harness.protocol import Layout, Op, receive, send, socket_pair

Seconds = tuple[float, float]  # CPU time of all processes, wall time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--contract", default="cpu")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    given = parser.parse_args()
    os.environ["ARSCHED_CONTRACT"] = given.contract
    os.sched_setaffinity(0, {given.core})
    torch.set_num_threads(1)
    measure_evaluation(given.contract, given.pairs)
    measure_sandbox(given.pairs)
    return 0


def measure_evaluation(name: str, pairs: int) -> None:
    import train

    contract = load_contract(name)
    cache = open_cache(contract)
    model = train.build_model(contract.vocab_size, contract.device).eval()
    model.init_weights(1)
    batch_size = train.DEVICE_BATCH_SIZE
    score_in_process(model, batch_size, contract, cache)  # the first touches everything
    alone: list[Seconds] = []
    judged: list[Seconds] = []
    for pair in range(pairs):
        kinds: list[tuple[list[Seconds], Callable[[], Seconds]]] = [
            (alone, lambda: timed(lambda: score_in_process(model, batch_size, contract, cache))),
            (judged, lambda: judged_evaluation(name, model, batch_size)),
        ]
        random.Random(pair).shuffle(kinds)
        for found, run in kinds:
            found.append(run())
    plan_rows, rows = rows_served(name, batch_size)
    print(f"evaluation of contract {name}, {rows} rows, {batch_size} a forward, {pairs} pairs on one core")
    print(f"rows served for the probes: {plan_rows - rows} more, {(plan_rows - rows) / rows:.1%}")
    for what, index in (("CPU", 0), ("wall", 1)):
        ratios = sorted(with_judge[index] / without[index] for with_judge, without in zip(judged, alone, strict=True))
        middle = [statistics.median(times[index] for times in kind) for kind in (alone, judged)]
        spread = f"{ratios[len(ratios) // 4]:.2f} to {ratios[-1 - len(ratios) // 4]:.2f}"
        print(
            f"{what}: in-process {middle[0]:.2f} s, judged {middle[1]:.2f} s, "
            f"ratio {statistics.median(ratios):.2f} (quartiles {spread})"
        )


def rows_served(name: str, batch_size: int) -> tuple[int, int]:
    with judge_data(open_cache(load_contract(name))) as data:
        width = forward_rows_of(batch_size, len(data.val))
        return len(plan_evaluation(data.val, data.holdout, width, np.random.default_rng(0)).rows), len(data.val)


def timed(run: Callable[[], object]) -> Seconds:
    begun_at, used_s = time.monotonic(), time.process_time()
    run()
    return time.process_time() - used_s, time.monotonic() - begun_at


def judged_evaluation(name: str, model: torch.nn.Module, batch_size: int) -> Seconds:
    """This process is the candidate; the judge's half is a process of its own, as in a run."""
    ours, theirs = socket_pair()
    reading, writing = os.pipe()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            theirs.close()
            os._exit(judge(name, ours, writing))
        os.close(writing)
        os.read(reading, 1)  # its data are read, as they are before a run's launch
        contract = load_contract(name)
        used = timed(lambda: serve(theirs, forward_of(model, contract), batch_size, contract, torch.cuda.empty_cache))
    with os.fdopen(reading) as answer:
        judge_s = float(answer.read())
    os.waitpid(pid, 0)
    return used[0] + judge_s, used[1]


def judge(name: str, sock: socket, writing: int) -> int:
    contract = load_contract(name)
    with judge_data(open_cache(contract)) as data, os.fdopen(writing, "w") as answer:
        answer.write("\n")
        answer.flush()
        batch_size = receive(sock).integer
        begun_s = time.process_time()
        chance = np.random.default_rng()
        width = forward_rows_of(batch_size, len(data.val))
        slice_rows, openers = transports(contract, "auto", on_gpu=contract.device == "cuda")
        layout = Layout(width, min(width, slice_rows), contract.sequence_length, contract.vocab_size)
        plan = plan_evaluation(data.val, data.holdout, width, chance)
        serving = ProbedServing(plan, layout.slice_rows, data.token_bytes, chance)
        evaluation = Evaluation(serving, layout, iter(openers), lambda message, fds: send(sock, message, fds))
        while not evaluation.over:
            message = receive(sock)
            if message.op is not Op.EVAL:
                evaluation.on_message(message)
        evaluation.close()
        answer.write(f"{time.process_time() - begun_s}\n")
    return 0


def measure_sandbox(pairs: int) -> None:
    """Wall time of whole runs that end at once: the median of the differences within pairs."""
    times: dict[str, list[Seconds]] = {"full": [], "off": []}
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder, "train.py")
        candidate.write_text("")
        for pair in range(pairs):
            for level in random.Random(pair).sample(list(times), 2):
                out = Path(folder, f"{level}-{pair}")
                times[level].append(run_judge(candidate, out, level))
                if (got := json.loads((out / "result.json").read_text())["status"]) != "no-eval":
                    print(f"sandbox {level}: {got}")
                    return
    for what, index in (("CPU", 0), ("wall", 1)):
        extra = sorted(full[index] - off[index] for full, off in zip(times["full"], times["off"], strict=True))
        spread = f"{extra[len(extra) // 4]:.3f} to {extra[-1 - len(extra) // 4]:.3f}"
        whole = statistics.median(off[index] for off in times["off"])
        print(f"sandbox, {what}: {statistics.median(extra):+.3f} s a run (quartiles {spread}) on {whole:.2f} s")


def run_judge(candidate: Path, out: Path, level: str) -> Seconds:
    fixed = ["--contract", "cpu", "--train", str(candidate), "--seed", "1", "--out", str(out), "--sandbox", level]
    before, begun_at = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "harness.judge", *fixed], cwd=ROOT, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used_s, time.monotonic() - begun_at


if __name__ == "__main__":
    sys.exit(main())
