"""Each GPU of this node as it stands now: memory, power, clocks, persistence; and whether all are alike.

Decides about values that `adapters.gpu` reads; what a driver does not say is not judged. Who computes on a GPU, MIG and
MPS are said by `slots`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.contract import Contract
from scheduler.doctor.findings import Finding, Grade, good, note
from scheduler.node.gpu import GpuState, GpuUnavailable, compute_processes

# What train.py's model of contract `standard` takes at its shipped batch, with the judge's share; nearly all of it is
# activations, so it goes with the tokens of a micro-batch.
MEASURED_NEED_BYTES = 45 << 30
MEASURED_TOKENS = 128 * 2048
MEASURED_MODEL = {"DEPTH": 8, "ASPECT_RATIO": 64}
MEASURED_VOCAB = 8192
USABLE_SHARE = 0.95

Judged = tuple[Grade, str, str]  # grade, what is said, what to do


def check_gpus(contract: Contract, states: tuple[GpuState, ...]) -> Iterator[Finding]:
    """Findings about the GPUs of this node; of one that somebody computes on, its memory is not judged."""
    whole = [state for state in states if not state.mig]
    judged = {state.index: [*judge_limits(state), *_memory(contract, state)] for state in whole}
    found = [*_merged(judged), *judge_alike(whole)]
    yield from found
    if whole and not found:
        yield good("gpus", "nothing that NVML tells of limits them")


def judge_limits(state: GpuState) -> Iterator[Judged]:
    """What makes runs on this GPU slower, or their start."""
    index = state.index
    if state.persistence is False:
        what = "persistence mode is off: the driver starts anew for every run, which takes seconds"
        yield Grade.NOTE, what, "sudo nvidia-smi -pm 1, or run nvidia-persistenced"
    limit, usual = state.power_limit_w, state.power_default_w
    if limit is not None and usual is not None and limit < usual - 1:
        what = f"its power is limited to {limit:.0f} W, the default is {usual:.0f} W"
        yield Grade.NOTE, what, f"sudo nvidia-smi -i {index} -pl {usual:.0f}"
    if _below(state.clock_set_mhz, state.clock_default_mhz):
        what = f"its application clock is {state.clock_set_mhz} MHz, the default is {state.clock_default_mhz} MHz"
        yield Grade.NOTE, what, f"sudo nvidia-smi -i {index} -rac"
    if _below(state.clock_ceiling_mhz, state.clock_max_mhz):
        what = f"its clock may reach {state.clock_ceiling_mhz} of {state.clock_max_mhz} MHz"
        yield Grade.NOTE, what, f"sudo nvidia-smi -i {index} -rgc"
    if state.slowdowns:
        what = f"it is slowed down just now: {', '.join(state.slowdowns)}"
        yield Grade.NOTE, what, "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,CLOCK shows more"


def judge_memory(contract: Contract, state: GpuState) -> Iterator[Judged]:
    """Whether the memory is free, and enough for the contract's train.py as shipped."""
    need, total, free = memory_need_bytes(contract) or 0, state.memory_total_bytes, state.memory_free_bytes
    if total is None or free is None:
        return
    if need > total:
        what = f"it has {total / 2**30:.0f} GiB, {_needs(contract, need)}"
        fits = _batch_that_fits(contract, need, total)
        yield Grade.NOTE, what, f"use contract small, or DEVICE_BATCH_SIZE {fits} in train.py"
    if state.memory_in_use:
        short = free < need <= total
        what = f"somebody holds memory of it: {state.memory_text}" + f"; {_needs(contract, need)}" * short
        yield Grade.PROBLEM if short else Grade.NOTE, what, "nvidia-smi shows who, as far as it may; end them"


def judge_alike(states: Iterable[GpuState]) -> Iterator[Finding]:
    """Scores of GPUs that differ do not compare: models make pools of their own, power limits do not."""
    by_name: dict[str, dict[int, float]] = {}
    for state in states:
        by_name.setdefault(state.name, {})
        if state.power_limit_w is not None:
            by_name[state.name][state.index] = state.power_limit_w
    if len(by_name) > 1:
        what = f"{len(by_name)} models of GPU here, whose scores do not compare: {', '.join(sorted(by_name))}"
        yield note("gpus", what, "a lab measures on one model: start a lab for each")
    for name, limits in by_name.items():
        if len(set(limits.values())) > 1:
            said = ", ".join(f"GPU {index} {watts:.0f} W" for index, watts in sorted(limits.items()))
            yield note("gpus", f"power limits of {name} differ: {said}", "set one for all: sudo nvidia-smi -pl WATTS")


def memory_need_bytes(contract: Contract) -> int | None:
    """GPU memory of a run of train.py with the contract's constants; None for models that were not measured."""
    constants = dict(contract.train_constants)
    batch = constants.get("DEVICE_BATCH_SIZE")
    known = contract.vocab_size == MEASURED_VOCAB and MEASURED_MODEL.items() <= constants.items()
    if not known or not isinstance(batch, int):
        return None
    return MEASURED_NEED_BYTES * batch * contract.sequence_length // MEASURED_TOKENS


def _memory(contract: Contract, state: GpuState) -> Iterable[Judged]:
    return () if state.memory_in_use and _is_computed_on(state.uuid) else judge_memory(contract, state)


def _is_computed_on(uuid: str) -> bool:
    try:
        return bool(compute_processes(uuid))
    except GpuUnavailable:
        return False


def _needs(contract: Contract, need: int) -> str:
    batch = dict(contract.train_constants)["DEVICE_BATCH_SIZE"]
    return f"contract {contract.name} needs about {need / 2**30:.0f} GiB at DEVICE_BATCH_SIZE {batch}"


def _batch_that_fits(contract: Contract, need: int, total: int) -> int:
    """The shipped batch halved until it fits."""
    batch = shipped = int(dict(contract.train_constants)["DEVICE_BATCH_SIZE"])
    while batch > 1 and need * batch / shipped > USABLE_SHARE * total:
        batch //= 2
    return batch


def _merged(judged: dict[int, list[Judged]]) -> Iterator[Finding]:
    """What holds for several GPUs is said once."""
    indexes: dict[Judged, list[int]] = {}
    for index, found in judged.items():
        for one in found:
            indexes.setdefault(one, []).append(index)
    for (grade, said, hint), where in indexes.items():
        yield Finding(f"gpu {','.join(map(str, where))}", grade, said, hint)


def _below(value: int | None, usual: int | None) -> bool:
    return value is not None and usual is not None and value < usual
