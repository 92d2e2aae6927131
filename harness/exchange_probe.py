"""How fast each exchange passes logits on this machine, measured with both halves of the real thing.

The candidate's logits cost nothing, so that what is measured is poison, write, snapshot and reduction. Each exchange
has two fresh processes and a time limit of its own: one that crashes or hangs is a refusal with a reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

from harness.containment import die_with_parent
from harness.contract import Contract
from harness.protocol import EXCHANGE_NAMES, Closed, Layout, Op, ProtocolError, receive, send, socket_pair

if TYPE_CHECKING:
    from harness.judge.evaluation import Evaluation
    from harness.logits_server import Forward

_PROGRAM = (sys.executable, "-m", "harness.exchange_probe")
_LIMIT_S = 60.0  # two imports of torch, two contexts, and some gigabytes at the slowest rate worth knowing
_ENDING_S = 2.0  # for a candidate whose judge is gone


def measure_exchanges(contract: Contract, device: str, slices: int = 8) -> tuple[dict[str, float], dict[str, str]]:
    """(GB/s by exchange name, reason by the name of each exchange that does not work here); GB = 10**9 bytes of logits.

    `device`: cpu (host alone, reduced by numpy), cuda for the first visible GPU, or a GPU's UUID or index. Counts
    `slices` slices, after one that warms up. Takes seconds per exchange, at most a minute each. Never raises for one
    that does not work.
    """
    rates: dict[str, float] = {}
    refusals: dict[str, str] = {}
    for name in EXCHANGE_NAMES if device != "cpu" else ("host",):
        answer = _measure(contract, device, slices, name)
        if "gb_per_s" in answer:
            rates[name] = float(answer["gb_per_s"])
        else:
            refusals[name] = str(answer["refused"])
    return rates, refusals


def _measure(contract: Contract, device: str, slices: int, name: str) -> dict[str, Any]:
    ours, theirs = socket_pair()
    task = json.dumps([contract.to_json(), "cpu" if device == "cpu" else "cuda", slices, name])
    with ours, theirs, contextlib.ExitStack() as stack:
        judge = stack.enter_context(_half("judge", ours, device, task))
        candidate = stack.enter_context(_half("candidate", theirs, device, task))
        ours.close()
        theirs.close()
        try:
            output, errors = judge.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            return {"refused": f"no result within {_LIMIT_S:g} s"}
        with contextlib.suppress(ValueError, IndexError):
            answer: dict[str, Any] = json.loads(output.splitlines()[-1])
            return answer
        if not errors.strip():
            with contextlib.suppress(subprocess.TimeoutExpired):
                errors = candidate.communicate(timeout=_ENDING_S)[1]
        return {"refused": errors.strip().rpartition("\n")[2].strip() or "a process ended without a word"}


@contextlib.contextmanager
def _half(half: str, sock: socket, device: str, task: str) -> Iterator[subprocess.Popen[str]]:
    """One half as a process; killed on the way out if it still runs."""
    package = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    if device not in ("cpu", "cuda"):
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": device}
    process = subprocess.Popen(
        [*_PROGRAM, half, str(sock.fileno()), task],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=(sock.fileno(),),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _judge(sock: socket, contract: Contract, device: str, slices: int, name: str) -> dict[str, Any]:
    """The judge's half: the rate of all slices but the first, which meets cold kernels and untouched memory."""
    import numpy as np

    from harness.judge.evaluation import Evaluation, transports
    from harness.judge.exchange_host import ExchangeUnavailable, NoRoom
    from harness.judge.serving import PlainServing
    from harness.scoring import TokenBytes

    token_bytes = TokenBytes(*(np.ones(contract.vocab_size, np.int64) for _ in range(2)))
    slice_rows, offers = transports(contract, name, on_gpu=device != "cpu")
    layout = Layout(slice_rows * (slices + 1), slice_rows, contract.sequence_length, contract.vocab_size)
    rows = np.zeros((layout.forward_rows, contract.sequence_length + 1), np.uint16)
    serving = PlainServing(rows, layout.forward_rows, slice_rows, token_bytes)
    evaluation = Evaluation(serving, layout, iter(offers), lambda message, fds: send(sock, message, fds))
    try:
        spent_s = _evaluate(sock, evaluation)
        if evaluation.exchange != name:
            return {"refused": "host memory cannot be page-locked in both processes"}
        return {"gb_per_s": slices * layout.logits_bytes / 1e9 / spent_s}
    except (ExchangeUnavailable, NoRoom, ProtocolError) as error:
        return {"refused": str(error)}
    finally:
        evaluation.close()


def _evaluate(sock: socket, evaluation: Evaluation) -> float:
    """Seconds from the first slice's end to the last one's."""
    begun_at: float | None = None
    while not evaluation.over:
        message = receive(sock)
        if message.op is not Op.EVAL:
            evaluation.on_message(message)
        if message.op is Op.DONE:
            begun_at = begun_at or time.perf_counter()
    return time.perf_counter() - (begun_at or 0.0)


def _constant(contract: Contract, device: str) -> Forward:
    """Uniform logits as a model on the device leaves them, written by the code that writes a model's."""
    import torch

    from harness.logits_server import TorchLogits

    row = torch.zeros((1, contract.sequence_length, contract.vocab_size), device=device)
    return lambda tokens: TorchLogits(row.expand(len(tokens), -1, -1))


def main(half: str, fd: str, task: str) -> None:
    """One half of a measurement, in a process of its own."""
    die_with_parent()
    text, device, slices, name = json.loads(task)
    contract = Contract.from_json(text)
    with socket(fileno=int(fd)) as sock:
        if half == "candidate":
            from harness.logits_server import serve

            serve(sock, _constant(contract, device), slices + 1, contract)
            return
        with contextlib.suppress(Closed):  # the candidate's own last words say why
            sys.stdout.write(json.dumps(_judge(sock, contract, device, slices, name)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
