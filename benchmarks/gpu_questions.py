"""The eight questions a first hour on a GPU should answer, each a function from a Lab to lines of Markdown.

A question that cannot be answered here raises gpu_lab.Unanswered and says what is missing; the others go on. Does not
interpret: the figures go into the log as they came.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpu_lab import ROOT, Lab, Unanswered, environment, last_line, write_contract

Answer = list[str]
_PHASES = ("import", "context", "compile", "train", "evaluate", "teardown")
_KERNELS = ("fa3", "fa2", "flex", "sdpa")


def rows_against_upstream(lab: Lab) -> Answer:
    """1. A judged run: speed, jitter, the loader beside it; upstream's file on the same cache; all GPUs at once."""
    result = lab.standard_run()
    lines = [run_line("this train.py", result), *quoted_summary(lab.log_of("standard"))]
    lines += [f"- step time from the log: {jitter(lab.log_of('standard'))}"]
    lines += [f"- the loader alone: {loader_speed(lab)}", f"- hash of every batch on the device: {gpu_tests()}"]
    if lab.options.upstream is None:
        lines += ["- upstream's own file: not run (give its path with --upstream)"]
    else:
        compatible = dataclasses.replace(lab.contract, compat="upstream")
        contract = write_contract(lab.options.workdir, dataclasses.replace(compatible, name=f"{lab.contract.name}-up"))
        lines += [run_line("upstream's train.py", lab.judge("upstream", contract=contract, train=lab.options.upstream))]
    return lines + all_at_once(lab)


def run_line(name: str, result: dict[str, Any]) -> str:
    """One line per run: verdict, score, speed, memory. Unknown figures are shown as such."""
    training = result["training"] or {}
    return (
        f"- {name}: {result['status']}, val_bpb {shown(result['val_bpb'], '.6f')} (upstream's bytes "
        f"{shown(result['val_bpb_upstream'], '.6f')}), {shown(training.get('steps'), 'd')} steps, "
        f"{shown(training.get('tokens_per_s'), ',.0f')} tokens/s, peak {shown(result['peak_memory_mb'], ',.0f')} MiB, "
        f"attention {result['attention']}" + (f"; {result['reason']}" if result["reason"] else "")
    )


def shown(value: Any, spec: str) -> str:
    return "unknown" if value is None else format(value, spec)


def quoted_summary(log: str) -> Answer:
    summary = log.rpartition("\n---\n")[2] if "\n---\n" in log else ""
    return ["", "```", *summary.strip().splitlines(), "```", ""] if summary else ["- the log has no summary"]


def jitter(log: str) -> str:
    """Median and spread of the step times that the log names."""
    times = [float(found) for found in re.findall(r"dt: (\d+(?:\.\d+)?)ms", log)]
    if len(times) < 3:
        return "too few lines"
    return f"median {statistics.median(times):.0f} ms, sd {statistics.stdev(times):.1f} ms, max {max(times):.0f} ms"


def loader_speed(lab: Lab) -> str:
    """Tokens per CPU-second that the loader serves when nothing else runs."""
    probed = lab.probe("loader")
    return f"{probed['tokens_per_cpu_s']:,.0f} tokens per CPU-second, {probed['tokens_per_s']:,.0f} tokens/s"


def gpu_tests() -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    return f"`pytest -m gpu`: {last_line(ended.stdout) or last_line(ended.stderr)}"


def all_at_once(lab: Lab) -> Answer:
    """One run on every GPU of this node at the same time, against the run alone."""
    count = device_count()
    if count < 2:
        return [f"- all GPUs at once: this node has {count}"]
    folders = [lab.options.workdir / "runs" / f"at-once-{i}" for i in range(count)]
    judges = [
        lab.start_judge(folder, seed=1, contract=lab.contract_path, train=lab.train_path, device=str(i))
        for i, folder in enumerate(folders)
    ]
    for judge in judges:
        judge.wait()
    return [run_line(f"GPU {i} of {count} at once", lab.result(folder)) for i, folder in enumerate(folders)]


def device_count() -> int:
    code = "import torch; print(torch.cuda.device_count())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def seconds_of_each_phase(lab: Lab) -> Answer:
    """2. Where a run's time goes: the judge's phases, and their share inside the budget."""
    result = lab.standard_run()
    phases = {name: result["phases_s"].get(name) for name in _PHASES}
    share = 100 * (phases["train"] or 0.0) / result["wall_s"]
    cells = " | ".join(shown(seconds, ".2f") for seconds in phases.values())
    return [
        "| " + " | ".join(_PHASES) + " | wall | inside the budget |",
        "|" + "---|" * (len(_PHASES) + 2),
        f"| {cells} | {result['wall_s']:.2f} | {share:.1f} % |",
        "",
    ]


def attention_kernels(lab: Lab) -> Answer:
    """3. Every attention kernel in the real model: step time, compile time, whether the whole model is one graph."""
    lines = [
        "| kernel | step ms | jitter ms | tokens/s | MFU % | peak MiB | first step s | one graph |",
        "|" + "---|" * 8,
    ]
    for name in _KERNELS if not lab.options.smoke else ("sdpa",):
        try:
            lines.append(kernel_row(name, *in_one_graph_if_possible(lab, name)))
        except Unanswered as missing:
            lines.append(f"| {name} | not here: {cell(missing)} |" + " |" * 6)
    return [*lines, ""]


def in_one_graph_if_possible(lab: Lab, name: str) -> tuple[dict[str, Any], str]:
    """What the probe measured, and whether the model compiled without a break. Raises Unanswered when it cannot run."""
    try:
        return lab.probe("model", name, "fullgraph"), "yes"
    except Unanswered as broken:
        return lab.probe("model", name), f"no: {cell(broken)}"


def cell(problem: Exception) -> str:
    """A message as it fits into a table."""
    return str(problem).replace("|", "/")[:120]


def kernel_row(name: str, probed: dict[str, Any], one_graph: str) -> str:
    figures = [f"{probed['step_ms']:.1f}", f"{probed['jitter_ms']:.2f}", f"{probed['tokens_per_s']:,.0f}"]
    figures += [f"{probed['mfu_percent']:.1f}", f"{probed['peak_memory_mb']:,.0f}", f"{probed['first_step_s']:.1f}"]
    return f"| {name} | " + " | ".join([*figures, one_graph]) + " |"


def compile_cache(lab: Lab) -> Answer:
    """4. How large a compile cache is, and what a second process saves with it."""
    folder = lab.options.workdir / f"compile-cache-{time.time_ns()}"
    env = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TRITON_CACHE_DIR": str(folder / "triton")}
    cold, warm = (lab.probe("model", **env)["first_step_s"] for _ in range(2))
    files = [path for path in folder.rglob("*") if path.is_file()]
    size_mb = sum(path.stat().st_size for path in files) / 2**20
    return [f"- first step cold {cold:.1f} s, warm {warm:.1f} s; cache {size_mb:.1f} MiB in {len(files)} files"]


def noise_of_the_baseline(lab: Lab) -> Answer:
    """5. The same train.py under several seeds: mean and standard deviation of val_bpb."""
    results = [lab.judge(f"seed-{seed}", seed=seed) for seed in range(1, lab.options.seeds + 1)]
    scores = [result["val_bpb"] for result in results if result["val_bpb"] is not None]
    if len(scores) < 2:
        raise Unanswered(
            f"{len(scores)} of {len(results)} runs scored: {results[-1]['status']}; {results[-1]['reason']}"
        )
    spread = f"mean {statistics.mean(scores):.6f}, sd {statistics.stdev(scores):.6f} (n = {len(scores)})"
    return [f"- val_bpb {', '.join(f'{score:.6f}' for score in scores)}: {spread}"]


def forkserver(lab: Lab) -> Answer:
    """6. A forkserver child: is PYTORCH_ALLOC_CONF, set after the import of torch, still heard?"""
    probed = lab.probe("forkserver")
    return [
        f"- expandable_segments in the child: {probed['expandable_segments']}; first child ready in "
        f"{probed['first_child_s']:.2f} s, the next in {probed['child_s']:.3f} s"
    ]


def widening(lab: Lab) -> Answer:
    """7. 16-bit tokens to int64 on the device."""
    probed = lab.probe("widen")
    return [
        f"- {name}: {'exact' if probed[name]['exact'] else 'WRONG'}, {probed[name]['us']:.0f} µs for 262,144 tokens"
        for name in ("uint16", "int16")
    ]


def flash_attention_3(lab: Lab) -> Answer:
    """8. Does this torch read the prefetched Flash Attention 3?"""
    probed = lab.probe("flash3")
    if probed["loads"]:
        return [f"- yes, in {probed['seconds']:.1f} s: {Path(probed['file']).name}"]
    return [f"- no: {probed['problem']}"]


QUESTIONS: tuple[Callable[[Lab], Answer], ...] = (
    rows_against_upstream,
    seconds_of_each_phase,
    attention_kernels,
    compile_cache,
    noise_of_the_baseline,
    forkserver,
    widening,
    flash_attention_3,
)


def title_of(question: Callable[[Lab], Answer]) -> str:
    """The first sentence of its docstring, number included."""
    return (question.__doc__ or question.__name__).strip().splitlines()[0]


def numbered() -> Iterator[tuple[int, Callable[[Lab], Answer]]]:
    yield from enumerate(QUESTIONS, start=1)
