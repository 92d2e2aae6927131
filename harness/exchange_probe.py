"""How fast each exchange passes logits on this machine, measured with both halves of the real thing.

Covers: judge and candidate in two processes of their own, a candidate whose logits cost nothing, so that what is
measured is poison, write, snapshot and reduction. Each way has fresh processes and a limit of its own: one that crashes
or hangs is a refusal with a reason, and the next is measured all the same. Not covered: what follows from a rate.
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
from harness.exchange import EXCHANGE_NAMES, Layout
from harness.protocol import Closed, Op, ProtocolError, receive, send, socket_pair

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.judge.evaluation import Evaluation
    from harness.logits_server import Buffer, Forward

_PROGRAM = (sys.executable, "-m", "harness.exchange_probe")
_WAY_LIMIT_S = 60.0  # two imports of torch, two contexts, and some gigabytes at the slowest rate worth knowing
_ENDING_S = 2.0  # for a candidate whose judge is gone


def measure_exchanges(contract: Contract, device: str, slices: int = 8) -> tuple[dict[str, float], dict[str, str]]:
    """(GB/s by exchange name, reason by the name of each exchange that does not work here); GB = 10**9 bytes of logits.

    `device`: cpu (host alone, reduced by numpy), cuda for the first visible GPU, or a GPU's UUID or index. Counts
    `slices` slices, after one that warms up. Takes seconds per way, at most a minute each. Never raises for a way
    that does not work.
    """
    rates: dict[str, float] = {}
    refusals: dict[str, str] = {}
    for name in EXCHANGE_NAMES if device != "cpu" else ("host",):
        said = _measure(contract, device, slices, name)
        if "gb_per_s" in said:
            rates[name] = float(said["gb_per_s"])
        else:
            refusals[name] = str(said["refused"])
    return rates, refusals


def _measure(contract: Contract, device: str, slices: int, name: str) -> dict[str, Any]:
    ours, theirs = socket_pair()
    with ours, theirs, contextlib.ExitStack() as stack:
        start = (contract, "cpu" if device == "cpu" else "cuda", slices, name)
        judge, candidate = (
            stack.enter_context(_half(half, end, device, json.dumps([start[0].to_json(), *start[1:]])))
            for half, end in (("judge", ours), ("candidate", theirs))
        )
        ours.close()
        theirs.close()
        try:
            answer, errors = judge.communicate(timeout=_WAY_LIMIT_S)
        except subprocess.TimeoutExpired:
            return {"refused": f"no result within {_WAY_LIMIT_S:g} s"}
        with contextlib.suppress(ValueError, IndexError):
            said: dict[str, Any] = json.loads(answer.splitlines()[-1])
            return said
        return {"refused": _last_line(errors) or _last_line(_errors_of(candidate)) or "a process ended without a word"}


@contextlib.contextmanager
def _half(half: str, sock: socket, device: str, order: str) -> Iterator[subprocess.Popen[str]]:
    """One half as a process; killed on the way out if it still runs."""
    package = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    if device not in ("cpu", "cuda"):
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": device}
    process = subprocess.Popen(
        [*_PROGRAM, half, str(sock.fileno()), order],
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


def _errors_of(process: subprocess.Popen[str]) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=_ENDING_S)[1]
    return ""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _judge(sock: socket, contract: Contract, device: str, slices: int, name: str) -> dict[str, Any]:
    """The judge's half: the seconds of all slices but the first, which meets cold kernels and untouched memory."""
    import numpy as np

    from harness.judge.evaluation import Evaluation
    from harness.judge.exchange_host import ExchangeUnavailable, NoRoom
    from harness.judge.offers import offers_of
    from harness.scoring import TokenBytes

    bytes_of = TokenBytes(*(np.ones(contract.vocab_size, np.int64) for _ in range(2)))
    offers = offers_of(contract, bytes_of, name, on_gpu=device != "cpu")
    count = offers.slice_rows * (slices + 1)
    rows = np.zeros((count, contract.sequence_length + 1), np.uint16)
    layout = Layout(count, offers.slice_rows, contract.sequence_length, contract.vocab_size)
    evaluation = Evaluation(rows, layout, iter(offers.ways), lambda message, fds: send(sock, message, fds))
    try:
        spent_s = _conduct(sock, evaluation)
        if evaluation.exchange != name:
            return {"refused": "host memory cannot be page-locked in both processes"}
        return {"gb_per_s": slices * layout.logits_bytes / 1e9 / spent_s}
    except (ExchangeUnavailable, NoRoom, ProtocolError) as error:
        return {"refused": str(error)}
    finally:
        evaluation.close()


def _conduct(sock: socket, evaluation: Evaluation) -> float:
    begun_at: float | None = None
    while evaluation.score is None:
        message = receive(sock)
        match message.op:
            case Op.EVAL:
                continue
            case Op.ROOM:
                evaluation.on_room()
            case Op.READY:
                evaluation.on_ready(message)
            case _:
                evaluation.on_done(message)
                begun_at = begun_at or time.perf_counter()
    return time.perf_counter() - (begun_at or 0.0)


def _candidate(sock: socket, contract: Contract, device: str, slices: int) -> None:
    from harness.logits_server import serve

    serve(sock, _constant_on_cpu(contract) if device == "cpu" else _constant_on_gpu(contract), slices + 1, contract)


class _ConstantOnCpu:
    """Uniform logits in host memory."""

    def __init__(self, row: NDArray[np.float32]) -> None:
        self._row = row

    def write(self, first: int, count: int, buffer: Buffer) -> None:
        assert buffer.host is not None
        buffer.host[:count] = self._row


def _constant_on_cpu(contract: Contract) -> Forward:
    import numpy as np

    logits = _ConstantOnCpu(np.zeros((contract.sequence_length, contract.vocab_size), np.float32))
    return lambda tokens: logits


def _constant_on_gpu(contract: Contract) -> Forward:
    """Uniform logits as a model on the GPU leaves them, written by the code that writes a model's."""
    import torch

    from harness.evaluation import TorchLogits

    row = torch.zeros((1, contract.sequence_length, contract.vocab_size), device="cuda")
    return lambda tokens: TorchLogits(row.expand(len(tokens), -1, -1))


def main(half: str, fd: str, order: str) -> None:
    """One half of a measurement, in a process of its own."""
    die_with_parent()
    text, device, slices, name = json.loads(order)
    contract = Contract.from_json(text)
    with socket(fileno=int(fd)) as sock:
        if half == "candidate":
            _candidate(sock, contract, device, slices)
            return
        try:
            said = _judge(sock, contract, device, slices, name)
        except Closed:
            return  # the candidate's own last words say why
        sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
