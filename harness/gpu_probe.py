"""A trial of this machine's GPUs, once per node: which attention kernels work and how fast, how logits reach the judge.

Covers: asking each question in a process of its own with a deadline (a kernel built for another torch may crash or hang
it), one trial for each GPU model, deciding, writing the record. `prepare` runs it; by hand:

    python -m harness.gpu_probe --contract C      prints one line of JSON, {"gpus": [record, ...]}

Not covered: the questions themselves (harness.gpu_trial, harness.exchange_probe) and the record (harness.gpu_record).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cache import LOCAL_KERNELS_ENV, fetched_kernel
from harness.contract import Contract, ContractError, load_contract
from harness.exchange_probe import measure_exchanges
from harness.gpu_record import (
    GpuRecord,
    candidates_for,
    driver_version,
    head_dim_of,
    read_record,
    shape_of,
    torch_version,
    write_record,
)

LARGEST_ERROR = 0.02  # bf16 on random inputs stays below 0.01
_LIST_S, _TRIAL_S = 120.0, 300.0
_NOT_FETCHED = "not fetched on this node; `arsched prepare` fetches it where it has a network"
_ROOT = Path(__file__).resolve().parents[1]

_LIST = """
import json, torch.cuda as c
gpus = [c.get_device_properties(i) for i in range(c.device_count() if c.is_available() else 0)]
print(json.dumps({"gpus": [[gpu.name, [gpu.major, gpu.minor], f"GPU-{gpu.uuid}"] for gpu in gpus]}))
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """A child process's last line of JSON, or why there is none."""

    values: Mapping[str, Any] | None
    problem: str = ""


Ask = Callable[[list[str], str, float], Answer]  # arguments of Python, CUDA_VISIBLE_DEVICES ("" for all), seconds


@dataclass(frozen=True, slots=True)
class Kernels:
    """What the trials of one GPU's attention kernels come to."""

    best: str
    ms: dict[str, float]
    refused: dict[str, str]
    doubt: str = ""


def probe_gpus(contract: Contract, report: Callable[[str], None], *, again: bool = False) -> tuple[GpuRecord, ...]:
    """Try every GPU model of this machine that has no valid record (`again`: those too).

    Returns the records of all; none on a machine without a GPU. A GPU whose memory another process holds has no
    record, or every later run would follow what failed for lack of room. Raises OSError when the disk refuses.
    """
    records: dict[str, GpuRecord] = {}
    with tempfile.TemporaryDirectory(prefix="arsched-gpu-") as scratch:
        ask = _asker(Path(scratch), contract)
        for device, capability, uuid in _gpus(ask, report):
            if device in records:
                continue
            known = read_record(device, shape_of(contract))
            if known is not None and _is_valid(known) and not again:
                records[device] = known
                continue
            report(f"trying {device}")
            record = _try(ask, contract, device, capability, uuid)
            report(describe(record))
            if _lacked_room(record):
                report(
                    "NOTE: not recorded: its memory ran out, another process uses this GPU; try again when it is free"
                )
                continue
            write_record(record)
            records[device] = record
    return tuple(records.values())


def _is_valid(record: GpuRecord) -> bool:
    """Whether a trial today would meet what this one met, and there was no doubt about it."""
    return record.driver == driver_version() and record.fa3_fetched == _fa3_fetched() and not record.doubt


def _lacked_room(record: GpuRecord) -> bool:
    reasons = [*record.attention_refused.values(), *record.exchange_refused.values()]
    return any("out of memory" in reason.lower() or "no room" in reason for reason in reasons)


def _fa3_fetched() -> bool:
    return fetched_kernel() is not None or LOCAL_KERNELS_ENV in os.environ


def decide(trials: Mapping[str, Answer]) -> Kernels:
    """The fastest kernel whose numbers are right.

    sdpa, torch's oldest, is the control: when it disagrees with the CPU, or every kernel does, the comparison is at
    fault or the device is. Then numbers refuse no kernel, and the doubt says so.
    """
    ran = {name: trial.values for name, trial in trials.items() if trial.values is not None}
    right = {name for name, values in ran.items() if 0 <= values["error"] <= LARGEST_ERROR}  # NaN is not
    refused = {name: trial.problem for name, trial in trials.items() if trial.values is None}
    if not ran:
        return Kernels("sdpa", {}, refused, "no attention kernel works on this GPU")
    doubt = ""
    if not right or ("sdpa" in ran and "sdpa" not in right):
        errors = ", ".join(f"{name} {values['error']:.2g}" for name, values in ran.items())
        doubt = f"attention on this GPU is not the CPU's; relative errors: {errors}"
    ms = {name: round(float(values["ms"]), 3) for name, values in ran.items() if doubt or name in right}
    wrong = {name: f"wrong numbers: relative error {ran[name]['error']:.2g}" for name in ran if name not in ms}
    return Kernels(min(ms, key=lambda name: ms[name]), ms, refused | wrong, doubt)


def describe(record: GpuRecord) -> str:
    """One line about a record, for people."""
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in record.attention_ms.items()) or "none works"
    reasons = record.attention_refused | record.exchange_refused
    refused = "".join(f"\n  not {name}: {why}" for name, why in reasons.items())
    speed = f" at {record.exchange_gb_per_s:.1f} GB/s" if record.exchange_gb_per_s else ""
    exchange = f"; logits by {record.exchange}{speed}" if record.exchange else ""
    doubt = f"\n  doubtful: {record.doubt}" if record.doubt else ""
    return f"{record.device}: attention by {record.attention} ({times}){exchange}{refused}{doubt}"


def _gpus(ask: Ask, report: Callable[[str], None]) -> list[tuple[str, tuple[int, int], str]]:
    """Name, compute capability and UUID of every visible GPU."""
    answer = ask(["-c", _LIST], "", _LIST_S)
    if answer.values is None:
        report(f"note: the GPUs could not be asked for: {answer.problem}")
        return []
    found = [(str(name), (int(major), int(minor)), str(uuid)) for name, (major, minor), uuid in answer.values["gpus"]]
    if not found:
        report(f"note: torch {torch_version()} sees no GPU here: nothing was tried")
    return found


def _try(ask: Ask, contract: Contract, device: str, capability: tuple[int, int], uuid: str) -> GpuRecord:
    shape = [str(contract.sequence_length), str(head_dim_of(contract))]
    trials = {
        name: Answer(None, _NOT_FETCHED)
        if name == "fa3" and not _fa3_fetched()
        else ask(["-m", "harness.gpu_trial", name, *shape], uuid, _TRIAL_S)
        for name in candidates_for(capability)
    }
    kernels = decide(trials)
    rates, refused = measure_exchanges(contract, uuid)
    best = next(iter(rates), None)  # they come best first
    return GpuRecord(
        device,
        torch_version(),
        shape_of(contract),
        driver_version(),
        kernels.best,
        kernels.ms,
        kernels.refused,
        best,
        None if best is None else round(rates[best], 3),
        refused,
        _fa3_fetched(),
        kernels.doubt,
    )


def _asker(scratch: Path, contract: Contract) -> Ask:
    """Asks a fresh Python on one GPU, with compile caches of its own."""
    (scratch / "contract.json").write_text(contract.to_json(), encoding="utf-8")
    fixed = {
        "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "ARSCHED_CONTRACT": str(scratch / "contract.json"),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }

    def ask(arguments: list[str], gpu: str, limit_s: float) -> Answer:
        visible = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        command = [sys.executable, *arguments]
        try:
            ended = subprocess.run(
                command, env=os.environ | fixed | visible, cwd=scratch, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, errors="replace", timeout=limit_s,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Answer(None, f"no answer within {limit_s:.0f} s")
        return _read_answer(ended)

    return ask


def _read_answer(ended: subprocess.CompletedProcess[str]) -> Answer:
    if ended.returncode == 0:
        try:
            return Answer(json.loads(ended.stdout.strip().splitlines()[-1]))
        except (ValueError, IndexError):
            pass
    printed = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    died = f"killed by signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
    return Answer(None, printed[-1][:300] if printed and ended.returncode > 0 else died)


def main(argv: list[str] | None = None) -> int:
    """One line of JSON; exit codes: 0 tried, 1 no GPU or no room, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m harness.gpu_probe", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--contract", default="standard", help="whose shape to try with. Default: standard")
    parser.add_argument("--again", action="store_true", help="also where a record is there")
    given = parser.parse_args(argv)
    try:
        contract = load_contract(given.contract)
    except ContractError as error:
        parser.error(f"--contract {given.contract}: {error}")
    try:
        records = probe_gpus(contract, lambda line: print(line, file=sys.stderr, flush=True), again=given.again)  # noqa: T201
    except OSError as error:
        sys.stderr.write(f"error: the record cannot be written: {error}\n")
        return 1
    print(json.dumps({"gpus": [dataclasses.asdict(record) for record in records]}))  # noqa: T201
    return 0 if records else 1


if __name__ == "__main__":
    sys.exit(main())
