"""One measurement in a process of its own: `gpu_probe.py WHAT TRAIN_PY [ARGUMENTS]` prints one line of JSON.

Covers: compile and step time of the real model, with a chosen attention kernel; the loader alone; the allocator's
settings in a forked child; 16-bit tokens widened on the device; whether Flash Attention 3 loads. Not covered: judged
runs (gpu_lab).
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from harness import accelerator, attention

_STEPS = 12


def load_train(path: str) -> Any:
    """train.py as a module, from wherever it lies."""
    spec = importlib.util.spec_from_file_location("train", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def random_batches(train: Any, device: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    vocab_size = attention.current().contract.vocab_size
    while True:
        tokens = torch.randint(vocab_size, (train.DEVICE_BATCH_SIZE, train.MAX_SEQ_LEN + 1), device=device)
        yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def model(train_path: str, backend: str = "best", mode: str = "default") -> dict[str, Any]:
    """Compile the model of train.py and time its steps, on a forced attention kernel; "fullgraph" forbids breaks."""
    device = accelerator.training_device()
    if backend != "best":
        attention.attention_backend = lambda: backend
    if mode == "fullgraph":
        compile_model = torch.compile
        torch.compile = lambda f, **options: compile_model(f, **options | {"fullgraph": True})
    train = load_train(train_path)
    sys.stdout = sys.stderr  # the last line of stdout is the answer
    trainer = train.Trainer(train.build_model(attention.current().contract.vocab_size, device), device, seed=1)
    batches = random_batches(train, device)
    began = time.perf_counter()
    trainer.step(batches, 0, 0.0)
    first_s = time.perf_counter() - began
    times = [timed(lambda: trainer.step(batches, 1, 0.0)) for _ in range(_STEPS)]
    step_s = statistics.median(times[2:])
    return {
        "backend": attention.attention_backend() if backend == "best" else backend,
        "first_step_s": first_s,
        "step_ms": 1000 * step_s,
        "jitter_ms": 1000 * statistics.stdev(times[2:]),
        "tokens_per_s": train.TOTAL_BATCH_SIZE / step_s,
        "mfu_percent": train.mfu_percent(trainer.model, train.TOTAL_BATCH_SIZE / step_s),
        "peak_memory_mb": accelerator.peak_memory_mb(),
    }


def timed(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def loader(train_path: str) -> dict[str, Any]:
    """How fast the loader alone serves batches: tokens per second and per CPU-second."""
    from harness import Tokenizer, make_dataloader

    train = load_train(train_path)
    batches = make_dataloader(Tokenizer.from_directory(), train.DEVICE_BATCH_SIZE, train.MAX_SEQ_LEN, "train")
    count = max(10, 20_000_000 // (train.DEVICE_BATCH_SIZE * train.MAX_SEQ_LEN)) if on_gpu() else 50
    next(batches)
    began, cpu_began = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    if on_gpu():
        torch.cuda.synchronize()
    tokens = count * train.DEVICE_BATCH_SIZE * train.MAX_SEQ_LEN
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return {"tokens_per_s": tokens / wall_s, "tokens_per_cpu_s": tokens / cpu_s}


def on_gpu() -> bool:
    return accelerator.training_device() == "cuda"


def forkserver(train_path: str) -> dict[str, Any]:
    """Does PYTORCH_ALLOC_CONF, set in a forkserver's child after torch was imported, still reach the allocator?"""
    need_cuda()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    first_s, _ = forked_allocator(context)
    child_s, expandable = forked_allocator(context)
    return {"first_child_s": first_s, "child_s": child_s, "expandable_segments": expandable}


def forked_allocator(context: Any) -> tuple[float, object]:
    receiver, sender = context.Pipe(duplex=False)
    began = time.perf_counter()
    child = context.Process(target=allocator_settings, args=(sender,))
    child.start()
    receiver.recv()  # alive, torch at hand
    ready_s = time.perf_counter() - began
    expandable = receiver.recv()
    child.join()
    return ready_s, expandable


def allocator_settings(sender: Any) -> None:
    """Runs in the child: set the variable, use the GPU, send what the allocator believes."""
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    sender.send("ready")
    torch.ones(1, device="cuda")
    sender.send(torch.cuda.memory._snapshot().get("allocator_settings", {}).get("expandable_segments"))


def widen(train_path: str) -> dict[str, Any]:
    """16-bit tokens to int64 on the device: do both ways work, agree, and cost nothing?"""
    need_cuda()
    tokens = torch.arange(65536, dtype=torch.int32).to(torch.uint16).repeat(4)
    answer: dict[str, Any] = {"torch": torch.__version__}
    for name, host, limit in (("uint16", tokens, 65536), ("int16", tokens.view(torch.int16), 32768)):
        on_device = host.cuda()
        wide = on_device.to(torch.int64)
        due = tokens.to(torch.int64).cuda()
        answer[name] = {"exact": bool((wide == due)[due < limit].all()), "us": 1e6 * synchronised(on_device)}
    return answer


def synchronised(tokens: torch.Tensor) -> float:
    """Seconds of one widening, the median of many."""
    times = []
    for _ in range(50):
        torch.cuda.synchronize()
        times.append(timed(lambda: (tokens.to(torch.int64), torch.cuda.synchronize())))
    return statistics.median(times)


def flash3(train_path: str) -> dict[str, Any]:
    """Does the prefetched Flash Attention 3 load with this torch, driver and GPU, without a network?"""
    need_cuda()
    began = time.perf_counter()
    try:
        interface = attention.load_fa3()
    except Exception as problem:  # the kind of failure is the answer
        return {"loads": False, "problem": f"{type(problem).__name__}: {problem}".splitlines()[0]}
    return {"loads": True, "seconds": time.perf_counter() - began, "file": interface.__file__}


def need_cuda() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device")


PROBES = {"model": model, "loader": loader, "forkserver": forkserver, "widen": widen, "flash3": flash3}

if __name__ == "__main__":
    answer = PROBES[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(answer), file=sys.__stdout__, flush=True)
