"""A GPU node: containment, torch and its driver, compiler, device files, the GPUs themselves, the GPU probe's record.

Decides about values that `scheduler.node` reads; what a driver or an older record does not report is not judged. Who
computes on a GPU, MIG and MPS are checked in `slots`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from harness.contract import Contract
from scheduler.doctor.checks import CheckResult, Grade, from_error, note, ok, problem
from scheduler.domain.errors import ArschedError
from scheduler.lab import ContractChoice
from scheduler.node import gpu as node
from scheduler.node.gpu import compute_processes, missing_toolchain, read_driver, read_states, unusable_device_files
from scheduler.node.harness_client import ask_capabilities
from scheduler.node.judge_process import judge_environment

LEAST_DRIVERS = {11: 450, 12: 525, 13: 580}  # by CUDA major version
WHICH_TORCH = (
    "torch for CUDA 13.x needs driver 580 or newer, for CUDA 12.x 525 or newer: update the driver, or install torch "
    "from the index of its CUDA 12.x builds (torch's install page names it)"
)
GET_TORCH = (
    "install torch from the index of its CUDA builds (torch's install page names it): CUDA 13.x needs driver 580 or "
    "newer, CUDA 12.x 525 or newer"
)
# What train.py's model of contract `standard` takes at its shipped batch, with the judge's share; nearly all of it is
# activations, so it goes with the tokens of a micro-batch.
MEASURED_NEED_BYTES = 45 << 30
MEASURED_TOKENS = 128 * 2048
MEASURED_MODEL = {"DEPTH": 8, "ASPECT_RATIO": 64}
MEASURED_VOCAB = 8192
USABLE_SHARE = 0.95
FAST_ATTENTION = ("fa3", "fa2")
DEVICE_TRANSPORTS = ("cuda-ipc", "cuda-fd")  # logits stay on the GPU
LOGIT_BYTES = 4  # fp32
REMEDY = (
    "let judge and candidate share device memory: no container that splits their PID or IPC namespaces or is "
    "sandboxed (docker: --ipc=host, --privileged where needed; not gVisor); else a contract file with a larger "
    "limits.evaluation_s"
)

GpuResult = tuple[Grade, str, str]  # of one GPU: grade, message, hint


def check_capabilities(device: str) -> Iterator[CheckResult]:
    """PID namespaces, and whether torch starts and reaches the GPU when the contract needs one."""
    try:
        found = ask_capabilities(device)
    except ArschedError as error:
        yield from_error("judge", error)
        return
    if found["contained"]:
        yield ok("judge", "PID namespaces are allowed: whatever a candidate starts dies with its judge")
    else:
        hint = "allow unprivileged user namespaces (sysctl), or run as root in a container of its own"
        yield note("judge", "no PID namespaces here: processes a candidate hides can outlive a killed judge", hint)
    if not found["torch"]:
        yield problem("torch", f"torch does not start: {found['cuda_error']}", "install it: make install")
    elif device == "cuda":
        minors = (state.minor for state in read_states() if state.minor is not None)
        yield from judge_cuda(found, read_driver(), unusable_device_files(minors))
    else:
        yield ok("torch", f"{found['torch']}, on the CPU")


def check_toolchain() -> Iterator[CheckResult]:
    """Compiler and headers, as a run on this machine would find them."""
    missing = missing_toolchain(judge_environment(os.environ, ""))
    yield from (problem("compiler", one.message, one.hint) for one in missing)
    if not missing:
        yield ok("compiler", "a C compiler and Python.h are there for Triton")


def judge_cuda(
    found: dict[str, Any], driver: node.Driver | None, unusable: tuple[node.Missing, ...]
) -> Iterator[CheckResult]:
    """`found`: the capabilities of torch and CUDA; `driver`: None without one; `unusable`: device files.

    Device files are judged by what torch could do with them: some systems reach GPUs without.
    """
    yield _judge_torch(found, driver)
    for one in unusable if driver is not None else ():
        yield CheckResult("device", Grade.NOTE if found["cuda"] else Grade.PROBLEM, one.message, one.hint)


def _judge_torch(found: dict[str, Any], driver: node.Driver | None) -> CheckResult:
    """NVIDIA's minor version compatibility: what is built for CUDA N.x runs on every driver of CUDA N.0 or newer."""
    torch, built = found["torch"], found["cuda_build"]
    if not built:
        return problem("torch", f"torch {torch} is a build without CUDA", GET_TORCH)
    head = built.partition(".")[0]
    major = int(head) if head.isdigit() else 0
    least = LEAST_DRIVERS.get(major)
    newer_driver = f"CUDA {built} needs " + (f"driver {least} or newer" if least else "a driver of its time")
    if driver and driver.cuda and driver.cuda[0] < major:
        runs = f"driver {driver.version} runs CUDA {driver.cuda[0]}.{driver.cuda[1]} at most"
        message = f"torch {torch} is built for CUDA {built}, {runs}"
        if found["cuda"]:  # NVIDIA's forward compatibility package stands in for a newer driver
            return note("torch", f"{message}; it reaches the GPU all the same (cuda-compat)", newer_driver)
        return problem("torch", message, WHICH_TORCH)
    if not found["cuda"]:
        hint = f"nvidia-smi shows whether the driver works; {newer_driver}"
        return problem("torch", f"torch {torch} (CUDA {built}) reaches no GPU: {found['cuda_error']}", hint)
    return ok("torch", f"{torch} with CUDA {built}" + (f", driver {driver.version}" if driver else ""))


def check_gpus(contract: Contract, states: tuple[node.GpuState, ...]) -> Iterator[CheckResult]:
    """Results about the GPUs of this node; of one with a foreign process, its memory is not judged.

    What holds for several GPUs is one result.
    """
    whole = [state for state in states if not state.mig]
    indexes: dict[GpuResult, list[int]] = {}
    for state in whole:
        for result in (*judge_limits(state), *judge_memory(contract, state)):
            indexes.setdefault(result, []).append(state.index)
    found = [CheckResult(f"gpu {','.join(map(str, where))}", *result) for result, where in indexes.items()]
    found += judge_alike(whole)
    yield from found
    if whole and not found:
        yield ok("gpus", "nothing that NVML reports limits them")


def judge_limits(state: node.GpuState) -> Iterator[GpuResult]:
    """What makes runs on this GPU slower, or their start."""

    def below(value: int | None, usual: int | None) -> bool:
        return value is not None and usual is not None and value < usual

    index = state.index
    if state.persistence is False:
        message = "persistence mode is off: the driver starts anew for every run, which takes seconds"
        yield Grade.NOTE, message, "sudo nvidia-smi -pm 1, or run nvidia-persistenced"
    limit, usual = state.power_limit_w, state.power_default_w
    if limit is not None and usual is not None and limit < usual - 1:
        message = f"its power is limited to {limit:.0f} W, the default is {usual:.0f} W"
        yield Grade.NOTE, message, f"sudo nvidia-smi -i {index} -pl {usual:.0f}"
    if below(state.clock_set_mhz, state.clock_default_mhz):
        message = f"its application clock is {state.clock_set_mhz} MHz, the default is {state.clock_default_mhz} MHz"
        yield Grade.NOTE, message, f"sudo nvidia-smi -i {index} -rac"
    if below(state.clock_ceiling_mhz, state.clock_max_mhz):
        message = f"its clock may reach {state.clock_ceiling_mhz} of {state.clock_max_mhz} MHz"
        yield Grade.NOTE, message, f"sudo nvidia-smi -i {index} -rgc"
    if state.slowdowns:
        message = f"it is slowed down at present: {', '.join(state.slowdowns)}"
        yield Grade.NOTE, message, "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,CLOCK shows more"


def judge_memory(contract: Contract, state: node.GpuState) -> Iterator[GpuResult]:
    """Whether the memory is free, and enough for the contract's train.py as shipped."""
    total, free = state.memory_total_bytes, state.memory_free_bytes
    if total is None or free is None or (state.memory_in_use and _has_process(state.uuid)):
        return
    need, shipped = memory_need_bytes(contract) or 0, dict(contract.train_constants).get("DEVICE_BATCH_SIZE")
    batch = shipped if isinstance(shipped, int) else 1
    needs = f"contract {contract.name} needs about {need / 2**30:.0f} GiB at DEVICE_BATCH_SIZE {batch}"
    if need > total:
        fits = batch
        while fits > 1 and need * fits / batch > USABLE_SHARE * total:
            fits //= 2
        hint = f"use contract small, or DEVICE_BATCH_SIZE {fits} in train.py"
        yield Grade.NOTE, f"it has {total / 2**30:.0f} GiB, {needs}", hint
    if state.memory_in_use:
        short = free < need <= total
        message = f"another process holds memory of it: {state.memory_text}" + f"; {needs}" * short
        yield Grade.PROBLEM if short else Grade.NOTE, message, "nvidia-smi shows which, as far as it may; end them"


def judge_alike(states: Iterable[node.GpuState]) -> Iterator[CheckResult]:
    """Scores of GPUs that differ do not compare: models make pools of their own, power limits do not."""
    by_name: dict[str, dict[int, float]] = {}
    for state in states:
        by_name.setdefault(state.name, {})
        if state.power_limit_w is not None:
            by_name[state.name][state.index] = state.power_limit_w
    if len(by_name) > 1:
        message = f"{len(by_name)} models of GPU here, whose scores do not compare: {', '.join(sorted(by_name))}"
        yield note("gpus", message, "a lab measures on one model: start a lab for each")
    for name, limits in by_name.items():
        if len(set(limits.values())) > 1:
            each = ", ".join(f"GPU {index} {watts:.0f} W" for index, watts in sorted(limits.items()))
            yield note("gpus", f"power limits of {name} differ: {each}", "set one for all: sudo nvidia-smi -pl WATTS")


def memory_need_bytes(contract: Contract) -> int | None:
    """GPU memory of a run of train.py with the contract's constants; None for models that were not measured."""
    constants = dict(contract.train_constants)
    batch = constants.get("DEVICE_BATCH_SIZE")
    known = contract.vocab_size == MEASURED_VOCAB and MEASURED_MODEL.items() <= constants.items()
    if not known or not isinstance(batch, int):
        return None
    return MEASURED_NEED_BYTES * batch * contract.sequence_length // MEASURED_TOKENS


def check_record(choice: ContractChoice, record: object, here: dict[str, str]) -> Iterator[CheckResult]:
    """What the GPU probe of `arsched prepare` found on this node. `record`: "gpu" of the harness's answer about a
    cache, which may be of an older version or damaged; `here`: versions of "torch" and "driver", "" if unknown."""
    again = f"arsched prepare --contract {choice.typed}"
    if not isinstance(record, dict):
        yield note("gpu probe", "it has not run on this node: attention kernel and exchange are untried", again)
        return
    stale = [
        f"{name} {made}, here is {now}"
        for name, now in here.items()  # package metadata leave out the build that follows a +
        if isinstance(made := record.get(name), str) and now and made.partition("+")[0] != now.partition("+")[0]
    ]
    if stale:
        yield note("gpu probe", f"it ran with {'; '.join(stale)}", again)
    if doubt := record.get("doubt"):
        yield problem("gpu probe", str(doubt), f"compare with another GPU or torch, then try again: {again}")
    yield from judge_attention(record)
    yield from judge_exchange(choice.contract, record)


def judge_attention(record: dict[str, Any]) -> Iterator[CheckResult]:
    """The kernel in use, and why it is not a faster one."""
    used = record.get("attention")
    if not isinstance(used, str):
        return
    times, refused = _entries(record, "attention_ms", (int, float)), _entries(record, "attention_refused", str)
    measured = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(times.items(), key=lambda item: item[1]))
    message = f"{used} is used" + (f" ({measured})" if measured else "")
    better = FAST_ATTENTION[: FAST_ATTENTION.index(used)] if used in FAST_ATTENTION else FAST_ATTENTION
    why = [f"{name} refused: {refused[name]}" for name in better if name in refused]
    if not why:
        yield ok("attention", message)
    else:
        yield note("attention", "; ".join([message, *why]), "scores compare only where the same kernel is used")


def judge_exchange(contract: Contract, record: dict[str, Any]) -> Iterator[CheckResult]:
    """Whether the judge gets the logits of an evaluation in time, and by which transport."""
    transport, rate = record.get("exchange"), record.get("exchange_gb_per_s")
    if not isinstance(transport, str):
        return
    refused = _entries(record, "exchange_refused", str)
    why = "".join(f"; {name} refused: {reason}" for name, reason in refused.items())
    logit_bytes = contract.evaluation_tokens * contract.vocab_size * LOGIT_BYTES
    seconds = logit_bytes / (rate * 1e9) if isinstance(rate, int | float) and rate > 0 else None
    limit_s = contract.limits.evaluation_s
    if seconds is not None and seconds > limit_s:
        message = (
            f"the evaluation of contract {contract.name} would take about {seconds:.0f} s here by {transport}, its "
            f"limit is {limit_s:g} s: every run would end as timeout: eval{why}"
        )
        yield problem("exchange", message, REMEDY)
        return
    takes = "at an unknown rate" if seconds is None else f"about {seconds:.0f} of {limit_s:g} s an evaluation"
    if transport in DEVICE_TRANSPORTS:
        yield ok("exchange", f"{transport}, {takes}")
    else:
        hint = "every run pays this: device memory shared between judge and candidate is faster"
        yield note("exchange", f"{transport}, {takes}{why}", hint)


def _entries(record: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> dict[str, Any]:
    value = record.get(key)
    if not isinstance(value, dict):
        return {}
    return {str(name): one for name, one in value.items() if isinstance(one, kind)}


def _has_process(uuid: str) -> bool:
    try:
        return bool(compute_processes(uuid))
    except node.GpuUnavailable:
        return False
