"""What the GPU probe of `arsched prepare` found on this node: the attention kernel, and how logits reach the judge.

Decides about the record as the referee hands it out. The record may be of an older version or damaged: what is missing
or of another type is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.contract import Contract
from scheduler.contracts import ContractChoice
from scheduler.doctor.findings import Finding, Grade, good, note, problem

FAST_ATTENTION = ("fa3", "fa2")
DEVICE_WAYS = ("cuda-ipc", "cuda-fd")  # logits stay on the GPU
LOGIT_BYTES = 4
REMEDY = (
    "let judge and candidate share device memory: no container that splits their PID or IPC namespaces or is "
    "sandboxed (docker: --ipc=host, --privileged where needed; not gVisor); else a contract file with a larger "
    "limits.evaluation_s"
)


def check_record(choice: ContractChoice, record: object, here: dict[str, str]) -> Iterator[Finding]:
    """`record`: "gpu" of what the referee says of a cache; `here`: versions of "torch" and "driver", "" if unknown."""
    again = f"arsched prepare --contract {choice.ref}"
    if not isinstance(record, dict):
        yield note("gpu probe", "it has not run on this node: attention kernel and exchange are untried", again)
        return
    stale = [
        f"{name} {made}, here is {now}"
        for name, now in here.items()
        if isinstance(made := record.get(name), str) and now and _plain(made) != _plain(now)
    ]
    if stale:
        yield note("gpu probe", f"it ran with {'; '.join(stale)}", again)
    if doubt := record.get("doubt"):
        yield problem("gpu probe", str(doubt), f"compare with another GPU or torch, then try again: {again}")
    yield from judge_attention(record)
    yield from judge_exchange(choice.contract, record)


def judge_attention(record: dict[str, Any]) -> Iterator[Finding]:
    """The kernel in use, and why it is not a faster one."""
    used = record.get("attention")
    if not isinstance(used, str):
        return
    times, refused = _entries(record, "attention_ms", (int, float)), _entries(record, "attention_refused", str)
    measured = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(times.items(), key=lambda item: item[1]))
    said = f"{used} is used" + (f" ({measured})" if measured else "")
    better = FAST_ATTENTION[: FAST_ATTENTION.index(used)] if used in FAST_ATTENTION else FAST_ATTENTION
    why = [f"{name} refused: {refused[name]}" for name in better if name in refused]
    if not why:
        yield good("attention", said)
    else:
        yield note("attention", "; ".join([said, *why]), "scores compare only where the same kernel is used")


def judge_exchange(contract: Contract, record: dict[str, Any]) -> Iterator[Finding]:
    """Whether the judge gets the logits of an evaluation in time, and by which way."""
    way, rate = record.get("exchange"), _rate(record.get("exchange_gb_per_s"))
    if not isinstance(way, str):
        return
    refused = _entries(record, "exchange_refused", str)
    why = "".join(f"; {name} refused: {reason}" for name, reason in refused.items())
    seconds = None if rate is None else evaluation_seconds(contract, rate)
    limit_s = contract.limits.evaluation_s
    if seconds is not None and seconds > limit_s:
        said = (
            f"the evaluation of contract {contract.name} would take about {seconds:.0f} s here by {way}, its limit is "
            f"{limit_s:g} s: every run would end as timeout: eval{why}"
        )
        yield problem("exchange", said, REMEDY)
        return
    takes = "at a rate nobody measured" if seconds is None else f"about {seconds:.0f} of {limit_s:g} s an evaluation"
    fast = way in DEVICE_WAYS
    hint = "" if fast else "every run pays this: device memory shared between judge and candidate is faster"
    yield Finding("exchange", Grade.OK if fast else Grade.NOTE, f"{way}, {takes}{'' if fast else why}", hint)


def evaluation_seconds(contract: Contract, gb_per_s: float) -> float:
    """Time for all fp32 logits of one evaluation at a rate in 1e9 bytes a second, from candidate to score."""
    return contract.evaluation_tokens * contract.vocab_size * LOGIT_BYTES / (gb_per_s * 1e9)


def _rate(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _entries(record: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> dict[str, Any]:
    value = record.get(key)
    if not isinstance(value, dict):
        return {}
    return {str(name): one for name, one in value.items() if isinstance(one, kind)}


def _plain(version: str) -> str:
    """Without the build that follows a +: package metadata leaves it out."""
    return version.partition("+")[0]
