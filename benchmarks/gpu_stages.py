"""The stages of gpu_quarter.py, each in a process of its own: `gpu_stages.py PLAN`, a Plan as JSON.

Covers: the machine, judged runs, the GPU tests, the cost of an evaluation by each exchange, and probes, which are
processes of their own again: `gpu_stages.py model TRAIN_PY KERNEL` and `gpu_stages.py loader TRAIN_PY` print one line
of JSON. Exit codes of a stage: 0 answered, 3 failed and wrote why, others: its last lines say why. Not covered: order,
deadlines, what is expected (gpu_quarter).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_runs import (
    ROOT,
    SAID_SO,
    ChildFailed,
    Plan,
    Values,
    candidate,
    child,
    contract_of,
    judge,
    leave_contract,
    prepared_or_random,
    random_rows,
    read_answers,
    written,
)

from harness.containment import die_with_parent
from harness.contract import Contract
from harness.protocol import EXCHANGE_NAMES

_PACKAGES = ("numpy", "pyarrow", "tiktoken", "rustbpe", "triton", "kernels", "pytest", "pytest-timeout", "pyyaml")
STAND_IN = ROOT / "tests/fixtures/candidates/upstream_style.py"  # for a smoke run


def judged_stage(plan: Plan, contract: Contract, train: Path, corpus: str, *options: str) -> None:
    values, _ = judge(plan, plan.stage, contract, train, *options)
    values |= {"rows": corpus, "compile_caches": "seeded" if "--seed-caches" in options else "empty"}
    if values["status"] != "ok":
        plan.fail(f"{values['status']}: {values['reason']}", values)
    plan.answer("run", values)


def caches_option(plan: Plan, option: str) -> tuple[str, ...]:
    """--keep-caches or --seed-caches, where the judge knows it and, for seeding, something was kept."""
    folder = plan.path("compile-caches")
    if option not in child(["-m", "harness.judge", "--help"]):
        return ()
    if option == "--keep-caches":
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
    return (option, str(folder)) if option == "--keep-caches" or folder.is_dir() else ()


def env(plan: Plan) -> None:
    import torch

    header = Path(sysconfig.get_path("include"), "Python.h")
    values: Values = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "free_disk_gb": shutil.disk_usage(plan.work).free / 1e9,
        "packages": {name: _version(name) for name in _PACKAGES},
        "compiler": next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None),
        "python_h": header.is_file(),
        "devices": sorted(str(path) for path in Path("/dev").glob("nvidia*")),
        "gpus": _nvidia_smi("--query-gpu=name,uuid,driver_version,memory.total,persistence_mode,compute_mode"),
        "varlen_attn": _varlen_signature(),
    }
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")  # a context of this process, which the driver may or may not list
        values |= {"gpu": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability()}
        values["listed_processes"] = _nvidia_smi("--query-compute-apps=pid,used_memory")
    plan.answer("machine", values)
    if not plan.smoke and not torch.cuda.is_available():
        plan.fail(f"needs a CUDA device: torch {torch.__version__} sees none")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvidia_smi(query: str) -> list[str] | str:
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"{type(problem).__name__}: {problem}"
    return ended.stdout.strip().splitlines() if ended.returncode == 0 else ended.stdout.strip() or ended.stderr.strip()


def _varlen_signature() -> str | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return str(inspect.signature(varlen_attn))


def smoke(plan: Plan) -> None:
    contract = random_rows(contract_of(plan, "smoke", seconds=15, val_rows=1024))
    judged_stage(
        plan,
        contract,
        candidate(plan, "train.py", contract.train_constants),
        "random rows",
        *caches_option(plan, "--keep-caches"),
    )


def tests(plan: Plan) -> None:
    """Read pytest's lines as they come: a suite that hangs still leaves the outcomes that it had."""
    if importlib.util.find_spec("pytest") is None:
        plan.fail("pytest is not installed here")
    leave_contract("standard")
    options = ["-v", "-ra", "--tb=short", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, "-m", "gpu", "tests/gpu"]
    if importlib.util.find_spec("pytest_timeout") is None:  # its option in pyproject.toml is then an unknown one
        command += ["-o", "addopts=--import-mode=importlib", "-W", "default"]
    outcomes: dict[str, str] = {}
    why: list[str] = []
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent
    )
    timed_out = _stop_after(process, plan.left_s() - 5)
    for line in process.stdout or ():
        print(line, end="", flush=True)
        if found := re.match(r"(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", line):
            outcomes[found[1]] = found[2].lower()
        elif line.startswith(("FAILED ", "ERROR ")):
            why.append(line.strip()[:300])
    process.wait()
    counts = {kind: list(outcomes.values()).count(kind) for kind in ("passed", "skipped", "failed", "error")}
    bad = [name for name, outcome in outcomes.items() if outcome in ("failed", "error")]
    values = {**counts, "not_passed": bad, "why": why[:40], "cut_at_deadline": timed_out()}
    if not outcomes:
        plan.fail(f"pytest ended with exit code {process.returncode} and no outcome", values)
    plan.answer("pytest", values)


def _stop_after(process: subprocess.Popen[str], seconds: float) -> Callable[[], bool]:
    """Kill the process when the time is up; the answer says whether that happened."""
    timer = threading.Timer(max(seconds, 1.0), process.kill)
    timer.daemon = True
    timer.start()
    return lambda: not timer.is_alive() and process.returncode == -9


def prepare(plan: Plan) -> None:
    """The rows of `ours`, then of `upstream`, which is a matter of links: one recipe."""
    os.nice(10)  # runs next to judged runs, and leaves them the GPU
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
    for name in ("ours", "upstream"):
        began, path = time.monotonic(), written(plan, contract_of(plan, name, seconds=60, val_rows=1024))
        plan.answer(
            name, json.loads(child(["-m", "harness.prepare", "--contract", str(path), "--json"], **no_gpu)), began
        )


def ours(plan: Plan) -> None:
    contract, corpus = prepared_or_random(contract_of(plan, "ours", seconds=60, val_rows=1024))
    judged_stage(
        plan,
        contract,
        candidate(plan, "train.py", contract.train_constants),
        corpus,
        *caches_option(plan, "--seed-caches"),
    )


def upstream(plan: Plan) -> None:
    """Upstream's own file on the rows and the attention of `ours`."""
    contract, corpus = prepared_or_random(contract_of(plan, "upstream", seconds=60, val_rows=1024))
    used = [a["values"].get("attention") for a in read_answers(Path(plan.out)) if a["stage"] == "ours"]
    same = ("--expect-attention", used[-1]) if used and used[-1] and not plan.smoke else ()
    judged_stage(plan, contract, Path(plan.upstream) if plan.upstream else STAND_IN, corpus, *same)


def evalcost(plan: Plan) -> None:
    """The judge's cost at the standard size by its best exchange, then by each slower one, cut at a limit."""
    best = _evaluate_by(plan, "auto", 60.0)
    if best in EXCHANGE_NAMES:
        for name in EXCHANGE_NAMES[EXCHANGE_NAMES.index(best) + 1 :]:
            _evaluate_by(plan, name, 30.0)


def _evaluate_by(plan: Plan, exchange: str, limit_s: float) -> str | None:
    """The exchange that was used; None where there is no answer. Only the best one's failure is the stage's."""
    began, limit_s = time.monotonic(), min(limit_s, plan.left_s() - 30)
    if limit_s < 5:
        plan.error(f"{plan.left_s():.0f} s left: no time for the exchange {exchange}")
        return None
    contract = random_rows(contract_of(plan, f"evalcost-{exchange}", 1, 10_240, limit_s))
    train = candidate(plan, "benchmarks/free_model.py", {"BATCH": dict(contract.train_constants)["DEVICE_BATCH_SIZE"]})
    run, log = judge(plan, f"evalcost-{exchange}", contract, train, "--exchange", exchange)
    if run["status"] not in ("ok", "timeout: eval"):
        if exchange == "auto":
            plan.fail(f"{run['status']}: {run['reason']}", run)
        plan.error(f"{exchange}: {run['status']}: {run['reason']}", began=began)
        return None
    used: str | None = run["exchange"]
    plan.answer("best" if exchange == "auto" else exchange, _evaluation_cost(run, log, contract, used), began)
    return used


def _evaluation_cost(run: Values, log: str, contract: Contract, exchange: str | None) -> Values:
    """Seconds for all rows: the judge's phase when it got to the end, else from the rate of the rows answered."""
    rows = contract.evaluation_tokens // contract.sequence_length
    marks = [(int(n), float(s)) for n, s in re.findall(r"^answered: (\d+) ([\d.]+)$", log, re.MULTILINE)]
    first, last = marks[min(1, len(marks) - 2)] if len(marks) > 1 else (0, 0.0), marks[-1] if marks else (0, 0.0)
    rate = (last[0] - first[0]) / (last[1] - first[1]) if last[1] > first[1] else None  # the first forward is slower
    whole_s = run["phases_s"]["evaluate"] if run["status"] == "ok" else rate and first[1] + (rows - first[0]) / rate
    logits_gb = rows * contract.sequence_length * contract.vocab_size * 4 / 1e9
    return {
        "exchange": exchange,
        "status": run["status"],
        "rows": rows,
        "evaluation_s": whole_s,
        "extrapolated": run["status"] != "ok",
        "rows_per_s": rate,
        "gb_per_s": whole_s and logits_gb / whole_s,
        "phases_s": run["phases_s"],
    }


def probes(plan: Plan) -> None:
    """The loader alone, the trial that `prepare` makes, and each kernel it found in the real model, one warm, too."""
    contract, _ = prepared_or_random(contract_of(plan, "ours", seconds=60, val_rows=1024))
    train, path = str(candidate(plan, "train.py", contract.train_constants)), str(written(plan, contract))
    this = str(Path(__file__).resolve())
    answered = [_ask(plan, "loader", [this, "loader", train], "loader", path)]
    kernels = ["sdpa"]
    if not plan.smoke:
        trial = _ask(plan, "trial", ["-m", "harness.gpu_probe", "--contract", path, "--again"], "trial", path)
        records = (trial or {}).get("gpus") or [{"attention_ms": {"flex": None, "fa2": None}}]
        kernels = sorted({*records[0]["attention_ms"]} - {"sdpa"}, key=lambda name: name != "flex")
        answered.append(trial)
    for kernel in kernels:
        answered.append(_ask(plan, kernel, [this, "model", train, kernel], kernel, path))
        if kernel == kernels[0]:
            answered.append(_ask(plan, f"{kernel}, warm", [this, "model", train, kernel], kernel, path))
    if not any(answered):
        sys.exit(SAID_SO)


def _ask(plan: Plan, name: str, command: list[str], caches: str, contract_path: str) -> Values | None:
    """The last line of a child, which is its answer; None, and an error in the file, where there is none."""
    began, folder = time.monotonic(), str(plan.path("probe-caches", caches))
    cache = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}
    try:
        said: Values = json.loads(child(command, ARSCHED_CONTRACT=contract_path, **cache).strip().splitlines()[-1])
    except (ChildFailed, ValueError, IndexError) as problem:
        plan.error(f"{name}: {problem}", began=began)
        return None
    plan.answer(name, said, began)
    return said


# Probes: each in a process of its own, with ARSCHED_CONTRACT set


def probe_model(train_py: str, kernel: str) -> Values:
    """The model of train.py on a forced attention kernel: compile time and step time."""
    import torch

    from harness import accelerator, attention

    attention.attention_backend = lambda: kernel
    device, train = accelerator.training_device(), _load(train_py)
    vocab = attention.current().contract.vocab_size
    trainer = train.Trainer(train.build_model(vocab, device), device, seed=1)
    shape = (train.DEVICE_BATCH_SIZE, train.MAX_SEQ_LEN + 1)
    tokens = torch.randint(vocab, shape, device=device)
    batches = iter(lambda: (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()), None)
    first_s = _timed(lambda: trainer.step(batches, 0, 0.0))
    times = sorted(_timed(lambda: trainer.step(batches, 1, 0.0)) for _ in range(12))
    step_s = statistics.median(times)
    return {
        "kernel": kernel,
        "first_step_s": first_s,
        "step_ms": 1000 * step_s,
        "step_ms_p90": 1000 * times[10],
        "tokens_per_s": train.TOTAL_BATCH_SIZE / step_s,
        "mfu_percent": train.mfu_percent(trainer.model, train.TOTAL_BATCH_SIZE / step_s),
        "peak_memory_mb": accelerator.peak_memory_mb(),
    }


def probe_loader(train_py: str) -> Values:
    """The loader alone: tokens per second and per CPU-second."""
    import torch

    from harness import loader

    train = _load(train_py)
    batch = train.DEVICE_BATCH_SIZE * train.MAX_SEQ_LEN
    batches = loader.make_dataloader(None, train.DEVICE_BATCH_SIZE, train.MAX_SEQ_LEN, "train")
    next(batches)
    count, cpu_began = 75 if torch.cuda.is_available() else 50, time.process_time()
    wall_s = _timed(lambda: [next(batches) for _ in range(count)] and None)
    return {
        "tokens_per_s": count * batch / wall_s,
        "tokens_per_cpu_s": count * batch / (time.process_time() - cpu_began),
    }


def _timed(work: Callable[[], object]) -> float:
    import torch

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _load(path: str) -> Any:
    """train.py as a module, from wherever it lies; what it prints goes to the log, stdout is for the answer."""
    sys.stdout = sys.stderr
    spec = importlib.util.spec_from_file_location("train", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["train"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STAGES: dict[str, Callable[[Plan], None]] = {
    f.__name__: f for f in (env, smoke, tests, prepare, ours, upstream, evalcost, probes)
}
PROBES: dict[str, Callable[..., Values]] = {"model": probe_model, "loader": probe_loader}


def main(argv: list[str]) -> None:
    if argv[0] in PROBES:
        answer = PROBES[argv[0]](*argv[1:])
        print(json.dumps(answer), file=sys.__stdout__, flush=True)
        return
    plan = Plan(**json.loads(argv[0]))
    try:
        STAGES[plan.stage](plan)
    except ChildFailed as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main(sys.argv[1:])
